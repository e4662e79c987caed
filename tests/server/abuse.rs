//! What a hostile client can do with connections and bytes alone, in thousands. One test at a time, on loopback; `make
//! test-abuse` runs them. Everybody else must be answered meanwhile, and the server must not grow.

use std::fs;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use crate::peers::Proxy;
use crate::support::{Database, PATIENCE, Server, at_once, await_that, connect, read_answer};

const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
const UPLOAD: &str =
    "POST /auth/register HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 65536\r\n\r\n";

/// What the server may take at most: whatever a client does, where bodies and answers are short; and with 512 idle
/// connections. A build with debug assertions has more code, and larger frames on each of its stacks.
const HOSTILE_KIB: u64 = 40 * 1024;
const IDLE_KIB: u64 = if cfg!(debug_assertions) { 30 } else { 24 } * 1024;

/// The test's turn; and descriptors enough for what it opens.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    assert!(limit.maximum.is_none_or(|maximum| maximum >= 4096), "these tests open some thousand connections");
    turn
}

/// From the n-th address of the machine to itself, so that there are ports enough and no address holds too much.
fn connect_from(number: u8, address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 1, number), 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

/// So many connections from 16 addresses.
fn crowd(count: usize, address: SocketAddr) -> Vec<TcpStream> {
    (0..count).map(|number| connect_from((number % 16) as u8, address)).collect()
}

/// A number of the server's `/proc/PID/status`; of memory, in KiB.
fn kib(server: &Server, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).expect("a number")
}

fn descriptors(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("the server runs").count()
}

/// Asks ten times, each on a new connection, and gives the longest time that an answer took.
#[track_caller]
fn is_answered(server: &Server) -> Duration {
    let ask = |_| {
        let start = Instant::now();
        let stream = connect(server.address).expect("the server accepts");
        (&stream).write_all(HEALTHZ.as_bytes()).unwrap();
        read_answer(&mut BufReader::new(&stream), "GET").expect("an answer").expect("an answer").must(200);
        start.elapsed()
    };
    let longest = (0..10).map(ask).max().unwrap();
    assert!(longest < Duration::from_secs(3), "an answer took {longest:?}");
    longest
}

#[track_caller]
fn stays_below(server: &Server, limit_kib: u64) {
    let (peak, threads) = (kib(server, "VmHWM"), kib(server, "Threads"));
    eprintln!("peak memory {peak} KiB, {threads} threads");
    assert!(peak < limit_kib, "peak memory {peak} KiB");
    assert!(threads < 512 + 50, "{threads} threads for 512 connections");
}

#[test]
fn five_hundred_and_twelve_idle_connections_take_little_memory() {
    let _turn = alone();
    let server = Server::start();
    let streams: Vec<_> = (0..512).map(|_| connect(server.address).unwrap()).collect();
    for _ in 0..5 {
        for stream in &streams {
            (&mut &*stream).write_all(HEALTHZ.as_bytes()).unwrap();
        }
        for stream in &streams {
            read_answer(&mut BufReader::new(stream), "GET").unwrap().expect("an answer").must(200);
        }
    }
    stays_below(&server, IDLE_KIB);
}

#[test]
fn a_header_line_without_end_is_431_and_takes_no_memory() {
    let _turn = alone();
    let server = Server::start();
    let stream = connect(server.address).unwrap();
    (&stream).write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ").unwrap();
    let megabyte = vec![b'x'; 1 << 20];
    let sent = (0..1024).take_while(|_| (&stream).write_all(&megabyte).is_ok()).count();
    read_answer(&mut BufReader::new(&stream), "GET").unwrap().expect("an answer").must(431);
    eprintln!("{sent} MiB were read on");
    stays_below(&server, HOSTILE_KIB);
    is_answered(&server);
}

#[test]
fn two_thousand_idle_connections_leave_room_for_others_under_1024_descriptors() {
    let _turn = alone();
    let server = Server::start();
    let pid = Pid::from_raw(server.pid().cast_signed());
    let limit = Rlimit { current: Some(1024), maximum: Some(1024) };
    prlimit(pid, Resource::Nofile, limit).unwrap();
    let start = Instant::now();
    let streams = crowd(2000, server.address);
    eprintln!("2000 connections took {:?}; an answer {:?}", start.elapsed(), is_answered(&server));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    stays_below(&server, HOSTILE_KIB);
    drop(streams);
    is_answered(&server);
}

#[test]
fn more_connections_than_descriptors_end_nothing() {
    let _turn = alone();
    let server = Server::start();
    let pid = Pid::from_raw(server.pid().cast_signed());
    let limit = Rlimit { current: Some(64), maximum: Some(64) };
    prlimit(pid, Resource::Nofile, limit).unwrap();
    let streams = crowd(200, server.address);
    is_answered(&server);
    drop(streams);
    is_answered(&server);
}

#[test]
fn a_shortage_of_threads_lets_idle_and_slow_connections_shut_nobody_out() {
    let _turn = alone();
    let (database, proxy) = (Database::create(), Proxy::start());
    let server = Server::on(&database, &proxy.url(&database.name, "postgres"), &[("ULIMIT", "-u 60")]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max processes")?.split_whitespace().next());
    assert_eq!(limit, Some("60"), "{limits}");
    let mut streams: Vec<_> = (0..100).map(|_| connect_from(9, server.address)).collect();
    is_answered(&server);
    assert!(kib(&server, "Threads") < 60, "connections that wait hold no threads");
    streams.iter_mut().for_each(|stream| stream.write_all(b"G").unwrap());
    await_that("no thread is left", || kib(&server, "Threads") == 60);
    is_answered(&server);
    assert_eq!(kib(&server, "Threads"), 60);
    drop(streams);
    is_answered(&server);
}

/// Sends requests on all of these without pause and reads what comes, and opens those anew that are closed, until told
/// to stop.
fn pipeline(number: u8, count: usize, address: SocketAddr, is_over: &AtomicBool) {
    let requests = HEALTHZ.repeat(50);
    let mut streams: Vec<_> = (0..count).map(|_| connect_from(number, address)).collect();
    let mut answers = vec![0; 64 * 1024];
    while !is_over.load(Ordering::Relaxed) {
        for stream in &mut streams {
            let _ = stream.write(requests.as_bytes());
            match stream.read(&mut answers) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => *stream = connect_from(number, address),
            }
        }
    }
}

#[test]
fn seven_hundred_busy_connections_of_one_address_keep_no_newcomer_out() {
    let _turn = alone();
    let server = Server::start();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(|| pipeline(200, 175, server.address, &is_over))));
        await_that("every place is taken", || descriptors(&server) > 512);
        let answers = at_once(36, |number| {
            let stream = connect_from(number as u8 + 1, server.address);
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            (&stream).write_all(HEALTHZ.as_bytes()).unwrap();
            read_answer(&mut BufReader::new(&stream), "GET").ok().flatten().map(|answer| answer.status)
        });
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(answers, [Some(200); 36]);
    });
}

#[test]
fn slow_loris_six_hundred_clients_that_drip_hold_up_nobody() {
    let _turn = alone();
    let server = Server::start();
    let mut streams = crowd(600, server.address);
    let bytes = UPLOAD.bytes().chain(std::iter::repeat(b'x'));
    for byte in bytes.take(20) {
        streams.retain(|stream| (&mut &*stream).write_all(&[byte]).is_ok());
        thread::sleep(Duration::from_millis(200));
        is_answered(&server);
    }
    stays_below(&server, HOSTILE_KIB);
}

/// 600 clients that ask for this again and again, and read nothing.
#[track_caller]
fn hold_up_nobody_though_they_never_read(target: &str, limit_kib: u64) {
    let _turn = alone();
    let server = Server::start();
    let requests = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(100);
    let streams = crowd(600, server.address);
    for _ in 0..20 {
        for stream in &streams {
            // As much as the socket takes.
            let _ = (&mut &*stream).write(requests.as_bytes());
        }
        is_answered(&server);
    }
    stays_below(&server, limit_kib);
}

#[test]
fn six_hundred_clients_that_never_read_hold_up_nobody() {
    hold_up_nobody_though_they_never_read("/healthz", HOSTILE_KIB);
}

#[test]
fn six_hundred_clients_that_never_read_long_answers_hold_up_nobody() {
    // What an operating system holds for its client is not the server's: of some 90 KiB it keeps the rest.
    hold_up_nobody_though_they_never_read("/openapi.json", 64 * 1024);
}

/// 300 clients that send this again and again, as fast as the server takes it, and read nothing: not even their own
/// operating system does, beyond what it must.
#[track_caller]
fn three_hundred_that_never_read_stay_below(limit_kib: u64, server: &Server, request: &[u8]) {
    let mut clients: Vec<_> = (0..300).map(|number| (connect_from((number % 16) as u8, server.address), 0)).collect();
    for (stream, _) in &clients {
        socket2::SockRef::from(stream).set_recv_buffer_size(1).unwrap();
    }
    for _ in 0..5 {
        for (stream, sent) in &mut clients {
            while let Ok(count @ 1..) = stream.write(&request[*sent..]) {
                *sent = (*sent + count) % request.len();
            }
        }
        // Not how soon: 300 bodies that are being read leave little of a processor.
        server.request("GET", "/healthz").send().must(200);
    }
    stays_below(server, limit_kib);
}

/// A request to register of 64 KiB whose members are all unknown: as many as fit with short names, or with long ones.
fn unknown_members(prefix: &str) -> Vec<u8> {
    let members = (0..).map(|number| format!("\"{prefix}{number}\":0,"));
    let mut length = 0;
    let fits = |member: &String| {
        length += member.len();
        length < 64 * 1024 - 10
    };
    let body = format!("{{{}\"z\":0}}", members.take_while(fits).collect::<String>());
    (UPLOAD.replace("65536", &body.len().to_string()) + &body).into_bytes()
}

#[test]
fn three_hundred_bodies_of_unknown_members_stay_under_64_mib() {
    let _turn = alone();
    for request in [unknown_members(""), unknown_members(&"\\u0001".repeat(100))] {
        let server = Server::start();
        let stream = connect(server.address).unwrap();
        (&stream).write_all(&request).unwrap();
        read_answer(&mut BufReader::new(&stream), "POST").unwrap().expect("an answer").must(422);
        three_hundred_that_never_read_stay_below(64 * 1024, &server, &request);
    }
}

#[test]
fn three_hundred_clients_that_never_read_the_largest_answers() {
    let _turn = alone();
    let server = Server::start();
    let user = server.user("ada");
    let mut sql = server.sql();
    // Control characters: each byte of a text is six in JSON.
    let fill = "insert into tasks (id, user_id, title, description)
                select gen_random_uuid(), id, repeat(E'\\x01', 255), repeat(E'\\x01', 2000)
                from users cross join generate_series(1, 200)";
    sql.batch_execute(fill).unwrap();
    let head = format!("Host: a\r\nAuthorization: Bearer {}\r\n", user.token);
    let members: String = (0..3000).map(|n| format!(",\"{n}\\u0001\\u0001\":1")).collect();
    let body = format!("{{\"title\":1{members}}}");
    let refused = format!(
        "POST /api/me/tasks HTTP/1.1\r\n{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let list = format!("GET /api/me/tasks?limit=100 HTTP/1.1\r\n{head}\r\n");
    for request in [refused, list.repeat(20)] {
        let server = Server::on(&server.database, &server.database_url(), &[]);
        let streams = crowd(300, server.address);
        for _ in 0..5 {
            for stream in &streams {
                // As much as the socket takes.
                let _ = (&mut &*stream).write(request.as_bytes());
            }
            is_answered(&server);
        }
        stays_below(&server, 64 * 1024);
    }
}

#[test]
fn bodies_that_never_end_take_no_more_than_their_share() {
    let _turn = alone();
    let server = Server::start();
    let streams = crowd(600, server.address);
    let body = vec![b'x'; 65_000];
    for stream in &streams {
        let _ = (&mut &*stream).write(UPLOAD.as_bytes());
        let _ = (&mut &*stream).write(&body);
    }
    is_answered(&server);
    // Each of 512 connections holds the 64 KiB of its body.
    stays_below(&server, HOSTILE_KIB + 512 * 64);
}

#[test]
fn ten_thousand_connections_that_are_reset_leave_nothing_behind() {
    let _turn = alone();
    let server = Server::start();
    is_answered(&server);
    let before = descriptors(&server);
    for number in 0..10_000_usize {
        let stream = connect_from((number % 16) as u8, server.address);
        if number % 2 == 0 {
            let _ = (&stream).write(HEALTHZ.as_bytes());
        }
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    is_answered(&server);
    await_that("every connection is closed", || descriptors(&server) <= before);
    stays_below(&server, HOSTILE_KIB);
}

#[test]
fn a_hundred_lengths_of_2_to_the_46_end_nothing() {
    let _turn = alone();
    let server = Server::start();
    for _ in 0..100 {
        let stream = connect(server.address).unwrap();
        let head = UPLOAD.replace("65536", "70368744177664");
        (&stream).write_all(head.as_bytes()).unwrap();
        read_answer(&mut BufReader::new(&stream), "POST").unwrap().expect("an answer").must(413);
    }
    stays_below(&server, HOSTILE_KIB);
    is_answered(&server);
}

#[test]
fn one_address_with_a_thousand_connections_closes_none_of_anothers() {
    let _turn = alone();
    let server = Server::start();
    let quiet: Vec<_> = (1..=100).map(|number| connect_from(number, server.address)).collect();
    let streams: Vec<_> = (0..1000).map(|_| connect_from(200, server.address)).collect();
    for stream in &quiet {
        (&mut &*stream).write_all(HEALTHZ.as_bytes()).unwrap();
        stream.set_nonblocking(false).unwrap();
        read_answer(&mut BufReader::new(stream), "GET").unwrap().expect("an answer").must(200);
    }
    drop(streams);
}

#[test]
fn an_idle_connection_is_kept_for_75_s_and_then_closed() {
    let _turn = alone();
    let server = Server::start();
    let streams = crowd(2, server.address);
    (&streams[1]).write_all(HEALTHZ.as_bytes()).unwrap();
    let start = Instant::now();
    let mut answer = [0; 1024];
    let is_open = |stream: &TcpStream, bytes: &mut [u8]| match (&mut &*stream).read(bytes) {
        Err(error) => error.kind() == ErrorKind::WouldBlock,
        Ok(count) => count > 0,
    };
    while streams.iter().any(|stream| is_open(stream, &mut answer)) && start.elapsed() < Duration::from_secs(90) {
        thread::sleep(Duration::from_millis(50));
    }
    assert!((74..79).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}
