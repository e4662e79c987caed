-- Users of Better Auth beside our own: one space of ids, and a rule for each kind of caller.

alter table users
    add column kind text not null default 'local',
    alter column email drop not null,
    alter column password_hash drop not null,
    add constraint users_kind_check check (kind in ('local', 'better_auth')),
    -- a local user can always log in, one of Better Auth never
    add constraint users_credentials_check check (
        (kind = 'local') = (email is not null) and (kind = 'local') = (password_hash is not null)
    );

-- The caller with a token of ours: one row if this local user may act in this session, none otherwise.
create or replace function local_caller(caller_id text, caller_session uuid)
returns table (id text, session_epoch integer)
language sql stable as $$
    select u.id, u.session_epoch
    from sessions as s
    join users as u on u.id = s.user_id
    where s.id = caller_session and u.id = caller_id and u.kind = 'local' and session_lives(s, u)
$$;

-- The caller with a token of Better Auth: one row unless a user with this id is a local one, or was deactivated. Whether
-- there is a row in users yet does not matter: the first task makes it.
create function external_caller(subject text) returns table (id text)
language sql stable as $$
    select subject
    where subject is not null and not exists (
        select from users as u where u.id = subject and (u.kind <> 'better_auth' or not u.is_active)
    )
$$;

-- The caller of a statement for both kinds: a token of ours belongs to a session, one of Better Auth to none. The
-- parameters are constants to the planner (the statement has no name), so that it drops the branch that cannot hold.
create function caller(subject text, caller_session uuid) returns table (id text)
language sql stable as $$
    select l.id from local_caller(subject, caller_session) as l
    union all
    select e.id from external_caller(case when caller_session is null then subject end) as e
$$;
