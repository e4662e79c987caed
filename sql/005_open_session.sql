-- Opening a session, as a function: PostgreSQL plans it once per connection. An unnamed statement is parsed and planned
-- each time, which takes longer than to run this one, and reads beside a crowd of logins wait for it.

-- Opens a session, and gives the seconds until it ends without a refresh. Null if the user is inactive, or if a password
-- change or a logout of all sessions came after the hash was read; one that runs beside this statement leaves the
-- session with an old epoch, invalid from its start. The 51st valid session ends; the attempt is given back; a few old
-- rows go. `new_hash` is null where the stored one is of the configured cost. One statement: all of it or nothing.
create function open_session(
    new_session uuid, account text, verified_epoch integer, new_hash text, attempt uuid, from_address text
) returns bigint
language plpgsql volatile set search_path from current as $$
declare
    seconds bigint;
begin
    with verified as (
        -- S23: the epoch of the verification
        select id, session_epoch from users where id = account and is_active and session_epoch = verified_epoch
    ), opened as (
        insert into sessions as s (id, user_id, session_epoch)
        select new_session, id, session_epoch from verified
        on conflict (id) do update set id = excluded.id
        returning extract(epoch from session_expires_at(s) - now())::bigint as expires_in
    ), rehashed as (
        update users set password_hash = new_hash
        from verified
        where users.id = verified.id and users.session_epoch = verified_epoch and new_hash is not null
    ), seen as (
        insert into known_addresses (user_id, address)
        select id, from_address from verified
        on conflict (user_id, address) do update set last_seen = now()
    ), refunded as (
        delete from attempts using verified where attempts.id = attempt
    ), surplus as (
        -- S25: what is beyond 50 sessions
        update sessions set ended_at = now()
        from (
            select s.id from verified
            join sessions as s on s.user_id = verified.id
            join users as u on u.id = s.user_id
            where session_is_valid(s, u) and s.id <> new_session
            order by s.refreshed_at desc, s.id desc
            offset 49
        ) as oldest
        where sessions.id = oldest.id
    ), old_attempts as (
        delete from attempts where id in (
            select id from attempts where created_at < now() - interval '1 hour'
            order by created_at limit 100 for update skip locked
        )
    ), old_sessions as (
        delete from sessions where id in (
            select id from sessions
            where created_at < now() - session_max_age() or ended_at < now() - interval '1 day'
            limit 100 for update skip locked
        )
    ), old_addresses as (
        delete from known_addresses where (user_id, address) in (
            select user_id, address from known_addresses
            where last_seen < now() - interval '90 days'
                -- a row cannot change twice in one statement: not the one that was just seen
                and (user_id, address) <> (account, from_address)
            order by last_seen limit 100 for update skip locked
        )
    )
    select expires_in into seconds from opened;
    return seconds;
end
$$;
