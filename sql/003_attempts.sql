-- Rate limits: login attempts and registrations, counted in the database, so that all instances share one count.
-- The functions with control flow have their search_path fixed to the schema of this migration.

create table attempts (
    -- made by the server: counting is repeatable, and a success gives its own attempt back
    id uuid constraint attempts_pkey primary key,
    kind text not null,
    -- a keyed digest, never the e-mail; null for a registration
    email_digest bytea,
    -- an IPv4 address, or the /64 of an IPv6 address
    address text not null,
    -- whether the account was logged in to from this address in the last 90 days
    address_is_known boolean not null default false,
    created_at timestamptz not null default now(),
    constraint attempts_kind_check check (kind in ('login', 'registration'))
);
create index attempts_address_idx on attempts (address, kind, created_at);
create index attempts_email_digest_idx on attempts (email_digest, created_at) where email_digest is not null;
create index attempts_created_at_idx on attempts (created_at);

-- Addresses from which an account was logged in to: nobody elsewhere can lock the owner out of them.
create table known_addresses (
    user_id text not null,
    address text not null,
    last_seen timestamptz not null default now(),
    constraint known_addresses_pkey primary key (user_id, address),
    constraint known_addresses_user_id_fkey foreign key (user_id) references users (id) on delete cascade
);
-- finds what may be deleted
create index known_addresses_last_seen_idx on known_addresses (last_seen);

-- Seconds until fewer than `max_count` of these times lie within the last `span`; 0 if that is so now, or without limit.
-- Never longer than the span, also where a clock that was set back left times in the future.
create function seconds_until_free(newest_first timestamptz[], max_count integer, span interval) returns integer
language sql volatile
return case
    when max_count = 0 or cardinality(newest_first) < max_count then 0
    else greatest(1, ceil(extract(epoch from
        least(newest_first[max_count] + span - clock_timestamp(), span)
    )))::integer
end;

-- Counting is right only where each statement sees what was committed before it. Under repeatable read or serializable
-- (a default of the database or the role) a crowd of attempts would pass the limit; so nothing is allowed there.
create function require_read_committed() returns void
language plpgsql stable as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'attempts are counted under read committed only' using errcode = 'feature_not_supported';
    end if;
end
$$;

-- Reserves one login attempt: 0 seconds and one row in attempts; or no row, the seconds to wait, and the limit that
-- was met (where several were, the one with the longest wait).
-- Volatile on purpose: each statement in it sees what was committed before it, so that the counts are read after the
-- locks are held. (One plain statement counts in a snapshot older than its locks and lets a crowd past the limit.)
create function reserve_login(
    attempt_id uuid, digest bytea, from_address text, user_id_or_null text, pair_limit integer, hour_limit integer,
    out seconds integer, out limit_met text
)
language plpgsql volatile set search_path from current as $$
declare
    known boolean;
begin
    perform require_read_committed();
    -- S8. Always the address before the e-mail: no two requests can wait for each other.
    perform pg_advisory_xact_lock(1, hashtext(from_address));
    perform pg_advisory_xact_lock(2, hashtext(encode(digest, 'hex')));
    seconds := 0;
    if exists (select from attempts where id = attempt_id) then
        return;
    end if;
    -- S7: the limit of the e-mail alone does not hold for a known address.
    known := exists (
        select from known_addresses as k
        where k.user_id = user_id_or_null and k.address = from_address and k.last_seen > now() - interval '90 days'
    );
    -- S6
    select limits.wait, limits.name into seconds, limit_met from (values
        ('email_and_address', seconds_until_free(array(
            select created_at from attempts
            where email_digest = digest and address = from_address and kind = 'login'
                and created_at > clock_timestamp() - interval '15 minutes'
            order by created_at desc limit pair_limit
        ), pair_limit, interval '15 minutes')),
        ('address', seconds_until_free(array(
            select created_at from attempts
            where address = from_address and kind = 'login'
                and created_at > clock_timestamp() - interval '1 hour'
            order by created_at desc limit hour_limit
        ), hour_limit, interval '1 hour')),
        ('email', case when known or pair_limit = 0 then 0 else seconds_until_free(array(
            select created_at from attempts
            where email_digest = digest and not address_is_known
                and created_at > clock_timestamp() - interval '1 hour'
            order by created_at desc limit 100
        ), 100, interval '1 hour') end)
    ) as limits (name, wait) order by wait desc limit 1;
    if seconds = 0 then
        insert into attempts (id, kind, email_digest, address, address_is_known, created_at)
        values (attempt_id, 'login', digest, from_address, known, clock_timestamp());
    end if;
end
$$;

-- Reserves one registration: 0 and one row in attempts, or the seconds to wait and no row. Volatile as reserve_login.
create function reserve_registration(attempt_id uuid, from_address text, hour_limit integer) returns integer
language plpgsql volatile set search_path from current as $$
declare
    wait integer;
begin
    perform require_read_committed();
    perform pg_advisory_xact_lock(1, hashtext(from_address));
    if exists (select from attempts where id = attempt_id) then
        return 0;
    end if;
    select seconds_until_free(array(
        select created_at from attempts
        where address = from_address and kind = 'registration'
            and created_at > clock_timestamp() - interval '1 hour'
        order by created_at desc limit hour_limit
    ), hour_limit, interval '1 hour') into wait;
    if wait = 0 then
        insert into attempts (id, kind, address, created_at)
        values (attempt_id, 'registration', from_address, clock_timestamp());
    end if;
    return wait;
end
$$;
