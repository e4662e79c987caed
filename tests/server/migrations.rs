//! Migrations, and the rights and settings of the server's role.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use serde_json::json;

use crate::support::{
    Database, Environment, Finished, PASSWORD, Role, Server, User, at_once, await_that, environment, protected, run,
    strong_secret,
};

fn migrate(database: &Database) -> Finished {
    run(&["migrate"], &environment(&database.url()))
}

/// The table that records migrations: its name and its column of checksums.
fn ledger(database: &Database) -> (String, String) {
    let statement = "select table_name::text, column_name::text from information_schema.columns \
                     where column_name like '%checksum%' and table_schema = 'public'";
    let row = database.sql().query_one(statement, &[]).expect("one table with checksums");
    (row.get(0), row.get(1))
}

/// Tables with their columns, and the record of migrations with its rows' versions.
fn schema(database: &Database) -> Vec<String> {
    let columns = "select table_name || '.' || column_name || ' ' || data_type \
                   from information_schema.columns where table_schema = 'public' order by 1";
    let ledger = format!("select xmin || ' ' || l::text from {} l order by 1", ledger(database).0);
    let mut sql = database.sql();
    let rows = [columns, &ledger].map(|statement| sql.query(statement, &[]).unwrap());
    rows.iter().flatten().map(|row| row.get(0)).collect()
}

#[test]
fn a_second_migrate_changes_nothing() {
    let database = Database::create();
    let first = migrate(&database);
    assert_eq!(first.code, Some(0), "{first:?}");
    let before = schema(&database);
    let second = migrate(&database);
    assert_eq!(second.code, Some(0), "{second:?}");
    assert_eq!(schema(&database), before);
    let server = Server::on(&database, &database.url(), &[]);
    server.user("ada");
    assert_eq!(schema(&database), before, "serve changed what was migrated");
}

#[test]
fn s56_eight_migrates_at_once_apply_each_migration_once() {
    let database = Database::create();
    for finished in at_once(8, |_| migrate(&database)) {
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }
    let (table, _) = ledger(&database);
    let statement = format!("select count(*) from {table}");
    let recorded: i64 = database.sql().query_one(&statement, &[]).unwrap().get(0);
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/sql")).unwrap().count();
    assert_eq!(usize::try_from(recorded), Ok(files));
}

#[test]
fn servers_that_start_at_once_on_an_empty_database_all_serve() {
    let database = Database::create();
    for server in at_once(4, |_| Server::on(&database, &database.url(), &[])) {
        server.request("GET", "/readyz").send().must(200);
    }
}

#[test]
fn s56_an_edited_migration_stops_migrate_and_serve() {
    let database = Database::create();
    assert_eq!(migrate(&database).code, Some(0));
    let (table, column) = ledger(&database);
    let edit = format!("update {table} set {column} = substr({column}, 2) || substr({column}, 1, 1)");
    database.sql().batch_execute(&edit).unwrap();
    for command in ["migrate", "serve"] {
        let finished = run(&[command], &environment(&database.url()));
        assert_eq!(finished.code, Some(1), "{command}: {finished:?}");
        assert!(finished.stdout.is_empty() && finished.stderr.contains("001_"), "{command}: {finished:?}");
    }
}

#[test]
fn a_missing_right_is_said_in_the_words_of_the_database() {
    let database = Database::create();
    let role = Role::create(&database);
    let environment = environment(&database.url_as(&role.name));
    for (command, says_run_migrate) in [("serve", true), ("migrate", false)] {
        let finished = run(&[command], &environment);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains("permission denied for schema public"), "{finished:?}");
        assert_eq!(finished.stderr.contains("run latchkey migrate"), says_run_migrate, "{finished:?}");
    }
}

#[test]
fn serve_migrates_unless_it_is_told_not_to_and_then_never_serves() {
    for arguments in [&["serve", "--no-migrate"][..], &["--no-migrate"]] {
        let database = Database::create();
        let finished = run(arguments, &environment(&database.url()));
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(
            finished.stderr.contains("001_accounts, 002_tasks, 003_attempts, 004_caller, 005_open_session"),
            "{finished:?}"
        );
        database.sql().query("select from users", &[]).expect_err("migrated");
        assert_eq!(migrate(&database).code, Some(0));
        Server::with(&database, arguments, &environment(&database.url())).request("GET", "/readyz").send().must(200);
    }
    let database = Database::create();
    Server::with(&database, &["serve"], &environment(&database.url())).request("GET", "/readyz").send().must(200);
}

#[test]
fn s67_migrate_gives_up_within_3_s_where_tables_are_in_use() {
    let database = Database::create();
    assert_eq!(migrate(&database).code, Some(0));
    database.sql().batch_execute("delete from migrations where name = '003_attempts'").unwrap();
    let mut sql = database.sql();
    let mut reader = sql.transaction().unwrap();
    reader.batch_execute("lock table tasks in access share mode; lock table attempts in access share mode").unwrap();
    let (waited, finished) = thread::scope(|scope| {
        let migrating = scope.spawn(|| migrate(&database));
        let waits = "select from pg_locks where not granted and relation = 'tasks'::regclass";
        await_that("migrate waits for a lock", || !database.sql().query(waits, &[]).unwrap().is_empty());
        let start = Instant::now();
        database.sql().query("select from tasks limit 1", &[]).unwrap();
        (start.elapsed(), migrating.join().unwrap())
    });
    assert!(waited < Duration::from_millis(3500), "a reader queued behind the migration for {waited:?}");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("held the tables for over 3 s: nothing was changed"), "{finished:?}");
}

#[test]
fn migrate_sees_what_another_instance_committed_under_any_default_isolation() {
    let database = Database::create();
    let default = format!("alter database {} set default_transaction_isolation = 'serializable'", database.name);
    database.sql().batch_execute(&default).unwrap();
    for finished in at_once(4, |_| migrate(&database)) {
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }
}

// --------------------------------------------------------------------------------------------------- the server's role

#[test]
fn migrate_limits_the_statements_of_the_servers_role_in_this_database_alone() {
    let database = Database::create();
    let role = Role::create(&database);
    let mut environment = environment(&database.url_as(&role.name));
    environment.insert("MIGRATE_DATABASE_URL".into(), database.url());
    assert_eq!(run(&["migrate"], &environment).code, Some(0));
    let limit = |database: &Database, role: &str| -> String {
        let mut sql = postgres::Client::connect(&database.url_as(role), postgres::NoTls).unwrap();
        sql.query_one("show statement_timeout", &[]).unwrap().get(0)
    };
    assert_eq!(limit(&database, &role.name), "5s");
    assert_eq!(limit(&database, "postgres"), "0");
    assert_eq!(limit(&Database::create(), &role.name), "0");
    let another = format!("alter role {} in database {} set statement_timeout = '7s'", role.name, database.name);
    database.sql().batch_execute(&another).unwrap();
    assert_eq!(run(&["migrate"], &environment).code, Some(0));
    assert_eq!(limit(&database, &role.name), "7s", "what the operator set is kept");
}

#[test]
fn migrations_are_not_bound_by_the_limit() {
    let database = Database::create();
    let role = format!("alter role postgres in database {} set statement_timeout = '1s'", database.name);
    database.sql().batch_execute(&role).unwrap();
    let mut sql = database.sql();
    let mut other = sql.transaction().unwrap();
    // The lock that migrations take: the program waits for it longer than the limit.
    other.batch_execute("select pg_advisory_xact_lock(x'6c617463686b6579'::bigint)").unwrap();
    let url = database.url();
    let migrating = thread::spawn(move || run(&["migrate"], &environment(&url)));
    thread::sleep(Duration::from_millis(2500));
    other.commit().unwrap();
    assert_eq!(migrating.join().unwrap().code, Some(0));
}

/// The owner's role, which made the tables, and the server's, which was made by `create role … login` alone.
pub struct Roles {
    pub server: Role,
    pub owner: Role,
    pub database: Arc<Database>,
}

impl Roles {
    pub fn create() -> Self {
        Self::on(Database::create())
    }

    pub fn on(database: Arc<Database>) -> Self {
        let (server, owner) = (Role::create(&database), Role::create(&database));
        let grant = format!("alter schema public owner to {}", owner.name);
        database.sql().batch_execute(&grant).unwrap();
        Self { server, owner, database }
    }

    /// What both roles' commands read.
    pub fn environment(&self) -> Environment {
        let mut environment = environment(&self.database.url_as(&self.server.name));
        environment.insert("MIGRATE_DATABASE_URL".into(), self.database.url_as(&self.owner.name));
        environment
    }

    fn sql(&self, role: &Role) -> Client {
        Client::connect(&self.database.url_as(&role.name), NoTls).unwrap()
    }
}

#[test]
fn migrate_sets_what_the_role_lacks_and_keeps_a_time_limit_of_any_level() {
    let roles = Roles::create();
    let setting =
        |name: &str| -> String { roles.sql(&roles.server).query_one(&format!("show {name}"), &[]).unwrap().get(0) };
    let alter = |change: &str| roles.database.sql().batch_execute(change).unwrap();
    alter(&format!("alter database {} set statement_timeout = '7s'", roles.database.name));
    alter(&format!("alter database {} set default_transaction_isolation = 'serializable'", roles.database.name));
    let finished = run(&["migrate"], &roles.environment());
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(setting("statement_timeout"), "7s");
    assert_eq!(setting("default_transaction_isolation"), "read committed");
    assert_eq!(setting("plan_cache_mode"), "force_generic_plan");
    alter(&format!("alter role {} in database {} reset all", roles.server.name, roles.database.name));
    alter(&format!("alter database {} reset all", roles.database.name));
    let finished = run(&["migrate"], &roles.environment());
    let name = &roles.server.name;
    for line in ["nothing pending\n".to_owned(), format!("role {name}: statement_timeout = 5s\n")] {
        assert!(finished.code == Some(0) && finished.stdout.contains(&line), "{finished:?}");
    }
    assert_eq!((setting("statement_timeout"), setting("plan_cache_mode")), ("5s".into(), "force_generic_plan".into()));
    let finished = run(&["migrate"], &roles.environment());
    assert!(!finished.stdout.contains('='), "there was nothing to set: {finished:?}");
}

/// Everything that a client can do.
fn whole_flow(server: &Server, name: &str) {
    let user = server.user(name);
    let id = server.task(&user, "one")["id"].as_str().unwrap().to_owned();
    for endpoint in protected() {
        let answer = endpoint.request(server, "me", &id).bearer(&user.token).send();
        assert!(answer.status < 300, "{}: {answer}", endpoint.name);
    }
    let login = json!({"email": user.email, "password": PASSWORD});
    let tokens = server.request("POST", "/auth/login").json(&login).send().must(200).json();
    let refresh = json!({"refresh_token": tokens["refresh_token"]});
    let tokens = server.request("POST", "/auth/refresh").json(&refresh).send().must(200).json();
    let me = |method: &str, path: &str| server.request(method, path).bearer(tokens["access_token"].as_str().unwrap());
    let other = format!("{PASSWORD} and more");
    me("PUT", "/auth/password").json(&json!({"current_password": PASSWORD, "new_password": other})).send().must(204);
    let token = server.login(&user.email, &other);
    server.request("POST", "/auth/logout").bearer(&token).send().must(204);
    server.login(&user.email, &other);
    me("POST", "/auth/delete").json(&json!({"password": other})).send().must(204);
    let User { id, token, .. } = server.user(name);
    server.request("POST", "/auth/logout-all").bearer(&token).send().must(204);
    server.sql().execute("delete from users where id = $1", &[&id]).unwrap();
}

#[test]
fn s36_the_server_role_can_do_the_whole_flow_and_nothing_else() {
    let roles = Roles::create();
    let environment = roles.environment();
    let finished = run(&["migrate"], &environment);
    assert!(finished.code == Some(0) && finished.stdout.contains("rights granted"), "{finished:?}");
    let secret = strong_secret();
    let url = roles.database.url_as(&roles.server.name);
    let server = Server::on(&roles.database, &url, &[("BETTER_AUTH_SECRET", &secret)]);
    whole_flow(&server, "ada");
    let checked = run(&["check"], &environment);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    for command in [&["user", "list"][..], &["user", "logout", "--all", "--yes"], &["purge"]] {
        let finished = run(command, &environment);
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }
    let mut sql = roles.sql(&roles.server);
    for refused in [
        "create table x (y integer)",
        "create function x() returns integer language sql return 1",
        "alter table users add column x integer",
        "drop table attempts",
        "truncate attempts",
        "create index on users (id)",
        "delete from migrations",
        "insert into migrations (name, checksum) values ('x', 'x')",
        "create temporary table x () inherits (users)",
        "alter function caller rename to x",
        "create policy x on users",
        "copy users to program 'cat'",
        "create role x",
    ] {
        let allowed = sql.batch_execute(refused);
        let code = allowed.as_ref().err().and_then(|error| error.code()).map(|code| code.code().to_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{refused}: {allowed:?}");
    }
    let owned = "select count(*) from pg_shdepend as d join pg_roles as r on r.oid = d.refobjid
                 where r.rolname = current_user and d.deptype = 'o'";
    assert_eq!(sql.query_one(owned, &[]).unwrap().get::<_, i64>(0), 0, "the server's role owns something");
}

#[test]
fn a_second_migrate_repairs_what_was_revoked() {
    let roles = Roles::create();
    assert_eq!(run(&["migrate"], &roles.environment()).code, Some(0));
    let name = &roles.server.name;
    for revoked in [
        format!("revoke all on all tables in schema public from {name}"),
        format!("revoke execute on all functions in schema public from public, {name}"),
        format!("revoke usage on schema public from public, {name}"),
    ] {
        roles.database.sql().batch_execute(&revoked).unwrap();
        let checked = run(&["check"], &roles.environment());
        assert_eq!(checked.code, Some(1), "{revoked}: {checked:?}");
        assert_eq!(run(&["migrate"], &roles.environment()).code, Some(0));
        let checked = run(&["check"], &roles.environment());
        assert_eq!(checked.code, Some(0), "{revoked}: {checked:?}");
    }
}

#[test]
fn rights_that_the_owner_may_not_grant_are_not_said_to_be_granted() {
    let roles = Roles::create();
    assert_eq!(run(&["migrate"], &roles.environment()).code, Some(0));
    // PostgreSQL only warns where a role grants what it has, but may not hand on.
    let reader = Role::create(&roles.database);
    let (reader_name, server) = (&reader.name, &roles.server.name);
    for change in [
        format!("revoke insert, delete on tasks from {server}"),
        format!("revoke usage on schema public from {server}"),
        format!("grant select on all tables in schema public to {reader_name}"),
    ] {
        roles.database.sql().batch_execute(&change).unwrap();
    }
    let mut environment = roles.environment();
    environment.insert("MIGRATE_DATABASE_URL".into(), roles.database.url_as(reader_name));
    let finished = run(&["migrate"], &environment);
    assert!(finished.code == Some(1) && !finished.stdout.contains("granted"), "{finished:?}");
    // The schema can be used by everybody.
    let grants = format!("grant insert on tasks to {server}; grant delete on tasks to {server}\n");
    assert!(finished.stderr.ends_with(&grants), "{finished:?}");
    assert_eq!(run(&["migrate"], &roles.environment()).code, Some(0));
    let checked = run(&["check"], &roles.environment());
    assert_eq!(checked.code, Some(0), "{checked:?}");
}
