-- Users, their sessions, and the one rule of who may act.
--
-- Migrations are forward only: each file runs once, in the order of its number, and is never edited afterwards (a start
-- compares checksums). A later change is a new file. Functions have SQL-standard bodies: their names are resolved once,
-- here, so that no other role's search_path can redirect them; and the planner still inlines them into the statement.

create table users (
    -- made by the server (UUIDv7), or the subject of a Better Auth token; opaque text to everybody else
    id text constraint users_pkey primary key,
    kind text not null default 'local',
    email text,
    password_hash text,
    is_active boolean not null default true,
    -- raised by whatever must end all sessions; a session is valid only in the epoch in which it was opened
    session_epoch integer not null default 0,
    created_at timestamptz not null default now(),
    constraint users_email_key unique (email),
    -- kept in lower case by the server; a second spelling of one address must not get in by another way either
    constraint users_email_check check (email = lower(email) and char_length(email) between 3 and 254),
    constraint users_kind_check check (kind in ('local', 'better_auth')),
    -- a local user can always log in, one of Better Auth never
    constraint users_credentials_check check (
        (kind = 'local') = (email is not null) and (kind = 'local') = (password_hash is not null)
    )
);

create table sessions (
    id uuid constraint sessions_pkey primary key,
    user_id text not null,
    session_epoch integer not null,
    -- S26: rotations so far: the refresh token that is valid now carries this number, and no token is kept
    counter integer not null default 0,
    created_at timestamptz not null default now(),
    refreshed_at timestamptz not null default now(),
    ended_at timestamptz,
    constraint sessions_user_id_fkey foreign key (user_id) references users (id) on delete cascade
) with (fillfactor = 90); -- room for the next version of a row in its own page: a refresh touches no index
create index sessions_user_id_idx on sessions (user_id);
-- these two find what may be deleted: old sessions, and ended ones
create index sessions_created_at_idx on sessions (created_at);
create index sessions_ended_at_idx on sessions (ended_at) where ended_at is not null;

-- The age at which a session ends, refreshed or not.
create function session_max_age() returns interval
language sql immutable
return interval '30 days'; -- S24

-- When a session ends if it is never refreshed again: 14 days after the last refresh, or at its greatest age.
create function session_expires_at(s sessions) returns timestamptz
language sql stable -- S24
return least(s.refreshed_at + interval '14 days', s.created_at + session_max_age());

-- Whether a session is valid: not ended, not expired, of its user's epoch, and the user active.
create function session_is_valid(s sessions, u users) returns boolean
language sql stable
return s.ended_at is null
    and session_expires_at(s) > now()
    and s.session_epoch = u.session_epoch
    and u.is_active;

-- S59. The principal with an access token of ours: one row if this local user may act in this session, none otherwise.
create function local_caller(subject text, caller_session uuid) returns table (id text, session_epoch integer)
language sql stable
begin atomic
    select u.id, u.session_epoch
    from sessions as s
    join users as u on u.id = s.user_id
    where s.id = caller_session and u.id = subject and u.kind = 'local' and session_is_valid(s, u);
end;

-- S59. The principal with a token of Better Auth: one row unless a user with this id is a local one, or was deactivated.
-- Whether there is a row in users yet does not matter: the first task makes it.
create function external_caller(subject text) returns table (id text)
language sql stable
begin atomic
    select subject
    where subject is not null and not exists (
        select from users as u where u.id = subject and (u.kind <> 'better_auth' or not u.is_active)
    );
end;

-- Fails with the SQLSTATE of a statement that does not exist (invalid_sql_statement_name).
create function refuse_statement() returns boolean
language plpgsql stable as $$
begin
    raise exception 'another statement has this name' using errcode = '26000';
end
$$;

-- The principal of either kind: a token of ours belongs to a session, one of Better Auth to none. `statement` is the text
-- that the server means to run, null where it runs a statement without a name. A pooler that keeps no names apart may
-- run another process's statement of the same name: that fails here, and nothing of it is done.
create function caller(statement text, subject text, caller_session uuid) returns table (id text)
language sql stable
begin atomic
    select either.id
    from (
        select l.id from local_caller(subject, caller_session) as l
        union all
        select e.id from external_caller(case when caller_session is null then subject end) as e
    ) as either
    where case when statement is null or statement = current_query() then true else refuse_statement() end; -- S34
end;
