//! The role that the server connects as: the rights that its statements need, and its settings in this one database.

use postgres::Client;
use postgres::types::Type;

use super::migrate::{created, locked};

/// Grants this role exactly what the server needs, also where some of it was revoked. The connection is the owner's.
///
/// # Errors
/// The database's refusal; nothing is granted then.
pub fn grant(owner: &mut Client, role: &str) -> Result<(), postgres::Error> {
    let mut transaction = locked(owner)?;
    // S36: the rights that the statements use, and no other.
    // `for update skip locked` asks for the right to update, which is why attempts needs it too.
    let rows = transaction.query_typed(
        "with ours as (select relnamespace from pg_class where oid = 'migrations'::regclass)
         select format('grant usage on schema %s to %I', relnamespace::regnamespace, $1) as statement from ours
         union all
         select format(
             'grant %s on %s to %I',
             case name when 'migrations' then 'select' else 'select, insert, update, delete' end, to_regclass(name), $1
         )
         from unnest($2 || array['migrations']) as name
         union all
         select format('grant execute on function %s to %I', p.oid::regprocedure, $1)
         from ours join pg_proc as p on p.pronamespace = ours.relnamespace and p.proname = any ($3)",
        &[(&role, Type::TEXT), (&created("table"), Type::TEXT_ARRAY), (&created("function"), Type::TEXT_ARRAY)],
    )?;
    for row in rows {
        transaction.batch_execute(row.get("statement"))?;
    }
    transaction.commit()
}

/// Sets what the connected role lacks in this database, for its next connections; each as `name = value`. A time limit
/// that was set on any level is kept. The throttle counts rightly under read committed alone, and the indexes fit the
/// generic plans.
///
/// # Errors
/// The database's refusal; nothing is set then.
pub fn set_up(server: &mut Client) -> Result<Vec<String>, postgres::Error> {
    let limit: String = server.query_typed_one("show statement_timeout", &[])?.get(0);
    let mut transaction = locked(server)?;
    let rows = transaction.query_typed(
        "with wanted (name, value) as (values
             ('statement_timeout', '5s'),
             ('default_transaction_isolation', 'read committed'),
             ('plan_cache_mode', 'force_generic_plan')
         ), there (setting) as (
             select unnest(s.setconfig) from pg_db_role_setting as s
             where s.setrole = (select oid from pg_roles where rolname = current_user)
                 and s.setdatabase = (select oid from pg_database where datname = current_database())
         )
         select name || ' = ' || value as setting,
             format('alter role current_user in database %I set %I = %L', current_database(), name, value) as statement
         from wanted
         where case name
             when 'statement_timeout' then $1 = '0'
             else name || '=' || value not in (select setting from there)
         end",
        &[(&limit, Type::TEXT)],
    )?;
    for row in &rows {
        transaction.batch_execute(row.get("statement"))?;
    }
    transaction.commit()?;
    Ok(rows.iter().map(|row| row.get("setting")).collect())
}
