-- Each user's own tasks. Ids are UUIDv7: order by id is order by time.

create table tasks (
    id uuid not null,
    user_id text not null,
    title text not null,
    description text,
    completed boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    -- the owner first: every statement names the owner, and the list of one user is one range of this index
    constraint tasks_pkey primary key (user_id, id),
    constraint tasks_user_id_fkey foreign key (user_id) references users (id) on delete cascade,
    constraint tasks_title_check check (char_length(title) between 1 and 255),
    constraint tasks_description_check check (char_length(description) <= 2000)
);
-- serves the list of open or of completed tasks, however few there are among the others
create index tasks_user_id_completed_id_idx on tasks (user_id, completed, id);
