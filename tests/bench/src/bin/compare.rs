//! `make bench`: latchkey beside axum and sqlx, in one run, as one table; then reads beside a login flood, and what a
//! process costs at rest. Loopback only, under five minutes. Prints figures and judges none.
//!
//! `LATCHKEY_TEST_DATABASE_URL` names a PostgreSQL as superuser; `LATCHKEY_TEST_POSTGRES_BIN` the directory of pgbench.

use bench::flood::Flood;
use bench::setup::{Setup, Workload};
use bench::table::{self, Figures};
use bench::{flood, load, process, setup, trips};

/// Every figure is the median of so many measurements, which take turns.
const ROUNDS: usize = 3;

fn main() {
    let setup = Setup::prepare();
    let trips = trips::measure(&setup);
    let servers = setup.start_servers();
    let mut rows = table::rows(&setup.workloads, &servers);

    for round in 0..=ROUNDS {
        let mut last = None;
        for row in &mut rows {
            if last.replace(row.workload) != Some(row.workload) {
                setup.settle();
            }
            let workload = &setup.workloads[row.workload];
            let figures = match row.server {
                Some(number) => load::server(&servers[number], workload, setup.postmaster, round == 0),
                None => limit(&setup, workload, &trips, round == 0),
            };
            // The first round warms up.
            if round > 0 {
                row.measured.push(figures);
            }
        }
    }
    table::print(&rows, &setup.workloads, &servers, &trips);

    setup.settle();
    let flooded: Vec<_> = servers.iter().filter(|server| server.has_accounts && !server.logs_requests).collect();
    let rounds: Vec<Vec<Flood>> = (0..ROUNDS).map(|_| flooded.iter().copied().map(flood::measure).collect()).collect();
    let of = |number: usize| Flood::median(rounds.iter().map(|round| &round[number]));
    table::print_flood(flooded.iter().enumerate().map(|(number, server)| (server.name, of(number))));
    drop(servers);
    table::print_processes(setup.programs().map(|program| (program.name, process::at_rest(&setup, program))));
    table::print_hostile(setup::hostile_request(&setup));
}

/// What the machine can do at most: the same statement by pgbench, or hashes without anything else.
fn limit(setup: &Setup, workload: &Workload, trips: &trips::Trips, is_warm_up: bool) -> Figures {
    match (workload.is_login, is_warm_up) {
        (true, true) => Figures::default(),
        (true, false) => load::hashes(),
        _ => load::pgbench(setup, &trips.statements[workload.name], is_warm_up),
    }
}
