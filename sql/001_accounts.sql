-- Users, their sessions, and the one rule of who may act.

create table users (
    -- made by the server (UUIDv7), so that an insert can be repeated safely; opaque text to everybody else
    id text constraint users_pkey primary key,
    email text not null,
    password_hash text not null,
    is_active boolean not null default true,
    -- raised by whatever must end all sessions; a session lives only in the epoch in which it was opened
    session_epoch integer not null default 0,
    created_at timestamptz not null default now(),
    constraint users_email_key unique (email),
    -- kept in lower case by the server; a second spelling of one address must not get in by another way either
    constraint users_email_check check (email = lower(email) and char_length(email) between 3 and 254)
);

create table sessions (
    id uuid constraint sessions_pkey primary key,
    user_id text not null,
    session_epoch integer not null,
    -- rotations so far: the refresh token that is valid now carries this number, and no token is kept
    counter integer not null default 0,
    created_at timestamptz not null default now(),
    refreshed_at timestamptz not null default now(),
    ended_at timestamptz,
    constraint sessions_user_id_fkey foreign key (user_id) references users (id) on delete cascade
);
create index sessions_user_id_idx on sessions (user_id);
-- finds what may be deleted: ended ones, and those past their longest life
create index sessions_created_at_idx on sessions (created_at);
create index sessions_ended_at_idx on sessions (ended_at) where ended_at is not null;

-- Whether a session is alive: not ended, of its user's epoch, the user active, refreshed in the last 14 days, opened in
-- the last 30. Written once; a single expression, so that the planner puts it into the statement that calls it.
create function session_lives(s sessions, u users) returns boolean
language sql stable as $$
    select s.ended_at is null
        and s.session_epoch = u.session_epoch
        and u.is_active
        and s.refreshed_at > now() - interval '14 days'
        and s.created_at > now() - interval '30 days'
$$;

-- The caller of a protected statement: one row if this user may act in this session, none otherwise.
create function local_caller(caller_id text, caller_session uuid) 
returns table (id text, session_epoch integer)
language sql stable as $$
    select u.id, u.session_epoch
    from sessions as s
    join users as u on u.id = s.user_id
    where s.id = caller_session and u.id = caller_id and session_lives(s, u)
$$;

-- RFC 3339 in UTC with microseconds, as every answer shows times.
create function rfc3339(t timestamptz) returns text
language sql stable as $$
    select to_char(t at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;
