//! Round trips to the database per request, counted by a proxy that reads PostgreSQL's protocol; and the very statements
//! that latchkey sends, as scripts for pgbench: nothing is copied, so nothing can differ.

use std::collections::HashMap;

use crate::client::{connect, exchange, request};
use crate::process::Server;
use crate::proxy::{Bound, Proxy};
use crate::setup::Setup;

/// By server and workload.
#[derive(Default)]
pub struct Trips {
    pub counts: HashMap<(&'static str, &'static str), f64>,
    /// By workload.
    pub statements: HashMap<&'static str, Script>,
}

/// Asks each server one request after the other through a proxy.
pub fn measure(setup: &Setup) -> Trips {
    let mut trips = Trips::default();
    for program in setup.programs().filter(|program| program.has_accounts) {
        let proxy = Proxy::open(setup, program.name);
        let server = Server::start(setup, program, &proxy.url(setup));
        for workload in setup.workloads.iter().filter(|workload| workload.is_stored) {
            let token = if workload.is_login { "" } else { &server.tokens[0] };
            let bytes = request(workload.method, &workload.paths[0], token, &workload.body);
            let mut stream = connect(server.address);
            let mut ask = || {
                let (status, answer) = exchange(&mut stream, &bytes);
                assert!(status < 300, "{}: {answer}", program.name);
                answer
            };
            // Until every connection that is used has its prepared statements.
            let (warm_up, count) = if workload.is_login { (2, 4) } else { (40, 20) };
            (0..warm_up).for_each(|_| drop(ask()));
            let before = proxy.trips();
            let answers: Vec<String> = (0..count).map(|_| ask()).collect();
            let after = proxy.trips();
            trips.counts.insert((program.name, workload.name), (after - before) as f64 / f64::from(count));
            if program.name == "latchkey" && !workload.is_login {
                let last: serde_json::Value = serde_json::from_str(&answers[answers.len() - 1]).expect("JSON");
                let made = if workload.method == "POST" { last["id"].as_str() } else { None };
                trips.statements.insert(workload.name, proxy.last().script(made));
            }
        }
    }
    trips
}

// ------------------------------------------------------------------------------------------------- as a script

/// A statement for `pgbench -M prepared`, and the values of its variables.
pub struct Script {
    pub text: String,
    /// `name=value`, for `pgbench -D`.
    pub variables: Vec<String>,
}

impl Bound {
    /// Each parameter becomes a variable. An id that the request made is made anew each time, and the statement's own
    /// text, where it is bound, becomes the text that pgbench sends.
    fn script(&self, made: Option<&str>) -> Script {
        let literals: Vec<Literal> = self.values.iter().zip(&self.statement.types).map(Literal::of).collect();
        let one_line = self.statement.sql.split_whitespace().collect::<Vec<_>>().join(" ");
        // pgbench sends `$1`, `$2` … for its variables, a new number for each use.
        let (mut text, mut sent, mut uses) = (String::new(), String::new(), 0);
        for (index, piece) in one_line.split('$').enumerate() {
            if index == 0 {
                (text, sent) = (piece.to_owned(), piece.to_owned());
                continue;
            }
            let (number, rest) = piece.split_at(piece.find(|c: char| !c.is_ascii_digit()).unwrap_or(piece.len()));
            let literal = &literals[number.parse::<usize>().expect("the number of a parameter") - 1];
            let of = literal.of;
            let (write, send) = match &literal.text {
                None => (format!("null::{of}"), format!("null::{of}")),
                Some(text) if Some(&**text) == made => ("gen_random_uuid()".into(), "gen_random_uuid()".into()),
                Some(_) => {
                    uses += 1;
                    (format!(":p{number}::{of}"), format!("${uses}::{of}"))
                }
            };
            text.push_str(&(write + rest));
            sent.push_str(&(send + rest));
        }
        // pgbench sends the semicolon too.
        (text, sent) = (text + ";", sent + ";");
        let variable = |(index, literal): (usize, &Literal)| {
            let text = literal.text.as_ref()?;
            let value = if *text == self.statement.sql { &sent } else { text };
            Some(format!("p{}={value}", index + 1))
        };
        let variables = literals.iter().enumerate().filter_map(variable).collect();
        Script { text, variables }
    }
}

/// A value as PostgreSQL reads it, and its type.
struct Literal {
    text: Option<String>,
    of: &'static str,
}

impl Literal {
    /// From the binary form. Source: `pg_type.dat`.
    fn of((value, oid): (&Option<Vec<u8>>, &u32)) -> Literal {
        let bytes = value.as_deref();
        let number =
            |bytes: &[u8]| bytes.iter().skip(1).fold(bytes[0] as i8 as i64, |n, byte| n << 8 | i64::from(*byte));
        let (of, text) = match oid {
            16 => ("boolean", bytes.map(|bytes| (bytes != [0]).to_string())),
            17 => ("bytea", bytes.map(hex)),
            20 => ("bigint", bytes.map(|bytes| number(bytes).to_string())),
            23 => ("integer", bytes.map(|bytes| number(bytes).to_string())),
            25 => ("text", bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())),
            2950 => ("uuid", bytes.map(|bytes| uuid::Uuid::from_slice(bytes).expect("16 bytes").to_string())),
            oid => panic!("a parameter of type {oid}, which the bench does not know"),
        };
        Literal { text, of }
    }
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    let digits: String = bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\\x{digits}")
}
