//! A large database: 100,000 users, 200,000 sessions, a million tasks, of which one user has a tenth.

use postgres::Client;

/// The part of the e-mail before the `@`; [`crate::setup`] registers the account.
pub const HEAVY: &str = "heavy";

/// Ids are UUIDv7 as the server makes them, in order of time; the heavy user's tasks come in between the others'.
const FILL: &str = "
    create function pg_temp.id(number bigint) returns uuid language sql immutable
    return (lpad(to_hex(1750000000000 + number), 12, '0') || '70008000' || lpad(to_hex(number), 12, '0'))::uuid;

    insert into users (id, email, password_hash)
    select pg_temp.id(number)::text, 'user' || number || '@example.com', reader.password_hash
    from generate_series(0, 99999) as number, users as reader
    where reader.email = 'reader0@example.com';

    insert into sessions (id, user_id, session_epoch)
    select pg_temp.id(number), pg_temp.id(number % 100000)::text, 0
    from generate_series(0, 199999) as number;

    insert into tasks (id, user_id, title, description)
    select pg_temp.id(number),
        case when number % 10 = 0 then heavy.id else pg_temp.id((number / 10 * 9 + number % 10) % 100000)::text end,
        'task ' || number, 'bread, butter and two litres of milk'
    from generate_series(0, 999999) as number, users as heavy
    where heavy.email = 'heavy@example.com';
";

pub fn fill(admin: &mut Client) {
    admin.batch_execute(FILL).expect("a large database");
    admin.batch_execute("vacuum analyze").expect("statistics");
}

/// Bytes on disk of one row, with its part of the indexes, by table.
pub fn sizes(admin: &mut Client) -> Vec<(&'static str, f64)> {
    let size = |table| {
        let of = format!("select pg_total_relation_size('{table}')::float8 / count(*) from {table}");
        (table, admin.query_one(&of, &[]).expect("a size").get(0))
    };
    ["users", "sessions", "tasks"].map(size).into()
}
