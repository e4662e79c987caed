//! What a database has, beside what this program relies on: for `latchkey check`.

use std::collections::BTreeSet;

use postgres::Client;
use postgres::types::Type;

use crate::error::chain;

/// Who is connected, to what.
pub struct Identity {
    /// The role.
    pub role: String,
    /// The database.
    pub database: String,
    /// The server's version.
    pub version: String,
    /// As `show statement_timeout` prints it; `0` is none.
    pub statement_timeout: String,
}

/// Every table, column, constraint, index and function that the statements rely on, as [`objects`] names them.
#[rustfmt::skip]
pub const RELIED_ON: &[&str] = &[
    "table attempts", "table known_addresses", "table migrations", "table sessions", "table tasks", "table users",
    "column attempts.address text not null", "column attempts.address_is_known boolean not null",
    "column attempts.created_at timestamp with time zone not null", "column attempts.email_digest bytea",
    "column attempts.id uuid not null", "column attempts.kind text not null",
    "column known_addresses.address text not null",
    "column known_addresses.last_seen timestamp with time zone not null",
    "column known_addresses.user_id text not null",
    "column migrations.applied_at timestamp with time zone not null", "column migrations.checksum text not null",
    "column migrations.name text not null",
    "column sessions.counter integer not null", "column sessions.created_at timestamp with time zone not null",
    "column sessions.ended_at timestamp with time zone", "column sessions.id uuid not null",
    "column sessions.refreshed_at timestamp with time zone not null",
    "column sessions.session_epoch integer not null", "column sessions.user_id text not null",
    "column tasks.completed boolean not null", "column tasks.created_at timestamp with time zone not null",
    "column tasks.description text", "column tasks.id uuid not null", "column tasks.title text not null",
    "column tasks.updated_at timestamp with time zone not null", "column tasks.user_id text not null",
    "column users.created_at timestamp with time zone not null", "column users.email text",
    "column users.id text not null", "column users.is_active boolean not null",
    "column users.kind text not null", "column users.password_hash text", "column users.session_epoch integer not null",
    "constraint attempts_kind_check", "constraint attempts_pkey", "constraint known_addresses_pkey",
    "constraint known_addresses_user_id_fkey", "constraint migrations_pkey", "constraint sessions_pkey",
    "constraint sessions_user_id_fkey", "constraint tasks_description_check", "constraint tasks_pkey",
    "constraint tasks_title_check", "constraint tasks_user_id_fkey", "constraint users_credentials_check",
    "constraint users_email_check", "constraint users_email_key", "constraint users_kind_check", "constraint users_pkey",
    "index attempts_address_idx", "index attempts_created_at_idx", "index attempts_email_digest_idx",
    "index known_addresses_last_seen_idx",
    "index sessions_created_at_idx", "index sessions_ended_at_idx", "index sessions_user_id_idx",
    "index tasks_user_id_completed_id_idx",
    "function caller(text, text, uuid)", "function external_caller(text)", "function local_caller(text, uuid)",
    "function reserve_login(uuid, bytea, text, text, integer, integer)",
    "function refuse_statement()", "function require_read_committed()",
    "function reserve_registration(uuid, text, integer)",
    "function seconds_until_free(timestamp with time zone[], integer, interval)",
    "function session_expires_at(sessions)", "function session_is_valid(sessions, users)", "function session_max_age()",
];

/// What the server's role must be allowed to do.
pub const RIGHTS: &[(&str, &[&str])] = &[
    ("users", &["select", "insert", "update", "delete"]),
    ("sessions", &["select", "insert", "update", "delete"]),
    ("tasks", &["select", "insert", "update", "delete"]),
    ("attempts", &["select", "insert", "delete"]),
    ("known_addresses", &["select", "insert", "update", "delete"]),
    ("migrations", &["select"]),
];

/// Who this connection speaks as.
///
/// # Errors
/// The database's words.
pub fn identity(client: &mut Client) -> Result<Identity, String> {
    let sql = "select current_user::text as role, current_database()::text as database,
                   current_setting('server_version') as version, current_setting('statement_timeout') as timeout";
    let row = client.query_typed_one(sql, &[]).map_err(|error| chain(&error))?;
    Ok(Identity {
        role: row.get("role"),
        database: row.get("database"),
        version: row.get("version"),
        statement_timeout: row.get("timeout"),
    })
}

/// Everything that a statement without a schema's name reaches; an index or constraint that is not valid is left out.
///
/// # Errors
/// The database's words.
pub fn objects(client: &mut Client) -> Result<BTreeSet<String>, String> {
    let rows = client.query_typed(
        "with reachable as (
             select c.oid, c.relname, c.relkind from pg_class as c
             join pg_namespace as n on n.oid = c.relnamespace
             where pg_table_is_visible(c.oid) and n.nspname not in ('pg_catalog', 'information_schema')
         )
         select 'table ' || relname as name from reachable where relkind in ('r', 'p')
         union all
         select 'column ' || r.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
             || case when a.attnotnull then ' not null' else '' end
         from reachable as r join pg_attribute as a on a.attrelid = r.oid
         where r.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
         union all
         select 'constraint ' || c.conname from pg_constraint as c join reachable as r on r.oid = c.conrelid
         where c.convalidated and c.contype <> 'n'
         union all
         select 'index ' || r.relname from reachable as r join pg_index as i on i.indexrelid = r.oid
         where i.indisvalid and not exists (select from pg_constraint as c where c.conindid = r.oid)
         union all
         select 'function ' || p.proname || '(' || oidvectortypes(p.proargtypes) || ')'
         from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
         where pg_function_is_visible(p.oid) and n.nspname not in ('pg_catalog', 'information_schema')",
        &[],
    );
    Ok(rows.map_err(|error| chain(&error))?.iter().map(|row| row.get("name")).collect())
}

/// Which of these rights on a table the connection's role lacks; all of them if there is no such table.
///
/// # Errors
/// The database's words.
pub fn missing_rights(client: &mut Client, table: &str, rights: &[&str]) -> Result<Vec<String>, String> {
    let rows = client.query_typed(
        "select wanted from unnest($2) as wanted
         where not coalesce(has_table_privilege(to_regclass($1), wanted), false)",
        &[(&table, Type::TEXT), (&rights, Type::TEXT_ARRAY)],
    );
    Ok(rows.map_err(|error| chain(&error))?.iter().map(|row| row.get("wanted")).collect())
}
