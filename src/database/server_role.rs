//! The role that the server connects as: the rights that its statements need, and its settings in this one database.

use postgres::types::Type;
use postgres::{Client, Row, Transaction};

use super::migrate::{created, locked};

/// Grants this role exactly what the server needs, also where some of it was revoked. The connection is the owner's. Gives
/// the statements whose right the role lacks all the same: PostgreSQL only warns where the owner may not grant.
///
/// # Errors
/// The database's refusal; nothing is granted then.
pub fn grant(owner: &mut Client, role: &str) -> Result<Vec<String>, postgres::Error> {
    let mut transaction = locked(owner)?;
    for row in grants(&mut transaction, role)? {
        transaction.batch_execute(row.get("statement"))?;
    }
    let lacking = grants(&mut transaction, role)?.into_iter().filter(|row| !row.get::<_, bool>("has_right"));
    let lacking = lacking.map(|row| row.get("statement")).collect();
    transaction.commit()?;
    Ok(lacking)
}

/// A statement for each right, and whether the role has it, from whomever.
fn grants(transaction: &mut Transaction<'_>, role: &str) -> Result<Vec<Row>, postgres::Error> {
    // S36: the rights that the statements use, and no other.
    // `for update skip locked` asks for the right to update, which is why attempts needs it too.
    transaction.query_typed(
        "with ours as (select relnamespace from pg_class where oid = 'migrations'::regclass),
         rights (relation, privilege) as (
             select to_regclass(name), privilege
             from unnest($2) as name, unnest(array['select', 'insert', 'update', 'delete']) as privilege
             union all
             select to_regclass('migrations'), 'select'
         )
         select format('grant usage on schema %s to %I', relnamespace::regnamespace, $1) as statement,
             has_schema_privilege($1, relnamespace, 'usage') as has_right
         from ours
         union all
         select format('grant %s on %s to %I', privilege, relation, $1), has_table_privilege($1, relation, privilege)
         from rights
         union all
         select format('grant execute on function %s to %I', p.oid::regprocedure, $1),
             has_function_privilege($1, p.oid, 'execute')
         from ours join pg_proc as p on p.pronamespace = ours.relnamespace and p.proname = any ($3)",
        &[(&role, Type::TEXT), (&created("table"), Type::TEXT_ARRAY), (&created("function"), Type::TEXT_ARRAY)],
    )
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
