-- Each user's own tasks. Ids are UUIDv7: order by id is order by time.

create table tasks (
    id uuid constraint tasks_pkey primary key,
    user_id text not null,
    title text not null,
    description text,
    completed boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint tasks_user_id_fkey foreign key (user_id) references users (id) on delete cascade,
    constraint tasks_title_check check (char_length(title) between 1 and 255),
    constraint tasks_description_check check (char_length(description) <= 2000)
);
-- serves the list of one user from any id on
create index tasks_user_id_id_idx on tasks (user_id, id);
