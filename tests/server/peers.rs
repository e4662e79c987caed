//! What stands between the program and its data in the tests on Neon: a PostgreSQL of the test's own, PgBouncer,
//! and a proxy that delays, falls silent, cuts and counts round trips.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use postgres::{Client, NoTls};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use uuid::Uuid;

use crate::support::await_that;

/// The socket of the cluster that all tests share.
pub fn cluster_socket() -> PathBuf {
    let url = std::env::var("LATCHKEY_TEST_DATABASE_URL").expect("make test brings the cluster");
    let config: postgres::Config = url.parse().expect("a URL");
    let [postgres::config::Host::Unix(directory)] = config.get_hosts() else { panic!("one socket directory") };
    directory.join(format!(".s.PGSQL.{}", config.get_ports().first().copied().unwrap_or(5432)))
}

// ------------------------------------------------------------------------------------------------------- proxy

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Forward,
    /// Connections are accepted and stay, but nothing passes.
    Silent,
    /// Of each connection, so many pieces pass that the client sends.
    SilentAfter(usize),
}

/// A TCP port in front of a database's socket.
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<ProxyState>,
}

struct ProxyState {
    mode: Mutex<Mode>,
    changed: Condvar,
    streams: Mutex<Vec<Shut>>,
    round_trips: AtomicUsize,
    opened: AtomicUsize,
    /// Connections with a lower number are silent for ever.
    silent_below: AtomicUsize,
}

type Shut = Box<dyn Fn() + Send>;

/// What a proxy can lead to.
#[derive(Clone)]
pub enum Target {
    Socket(PathBuf),
    Tcp(SocketAddr),
}

impl Proxy {
    /// In front of the cluster that all tests share.
    pub fn start() -> Self {
        Self::to(Target::Socket(cluster_socket()))
    }

    pub fn to(target: Target) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(ProxyState {
            mode: Mutex::new(Mode::Forward),
            changed: Condvar::new(),
            streams: Mutex::default(),
            round_trips: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            silent_below: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                near.set_nodelay(true).unwrap();
                let state = Arc::clone(&shared);
                // A database that is away refuses here too, by an end at once.
                let outcome = match &target {
                    Target::Socket(path) => UnixStream::connect(path).map(|far| {
                        let halves = (far.try_clone().unwrap(), far.try_clone().unwrap());
                        state.forward(&near, halves.0, halves.1, Box::new(move || drop(far.shutdown(Shutdown::Both))));
                    }),
                    Target::Tcp(address) => TcpStream::connect(address).map(|far| {
                        far.set_nodelay(true).unwrap();
                        let halves = (far.try_clone().unwrap(), far.try_clone().unwrap());
                        state.forward(&near, halves.0, halves.1, Box::new(move || drop(far.shutdown(Shutdown::Both))));
                    }),
                };
                drop(outcome);
            }
        });
        Self { address, state }
    }

    /// The URL of this database through the proxy.
    pub fn url(&self, database: &str, role: &str) -> String {
        format!("postgres://{role}@{}/{database}", self.address)
    }

    /// Round trips so far, those of connecting among them.
    pub fn round_trips(&self) -> usize {
        self.state.round_trips.load(Ordering::SeqCst)
    }

    pub fn silence(&self) {
        *self.state.mode.lock().unwrap() = Mode::Silent;
    }

    /// Of each connection, so many pieces pass that the client sends, and no more.
    pub fn silence_after(&self, pieces: usize) {
        *self.state.mode.lock().unwrap() = Mode::SilentAfter(pieces);
    }

    /// A host that was replaced: the connections of this moment are silent for ever, and new ones work.
    pub fn replace(&self) {
        self.state.silent_below.store(self.state.opened.load(Ordering::SeqCst), Ordering::SeqCst);
        self.forward();
    }

    /// What was held back passes from now on.
    pub fn forward(&self) {
        *self.state.mode.lock().unwrap() = Mode::Forward;
        self.state.changed.notify_all();
    }

    /// Ends the connections of this moment.
    pub fn cut(&self) {
        self.state.streams.lock().unwrap().drain(..).for_each(|shut| shut());
    }
}

impl ProxyState {
    fn forward<S: Read + Write + Send + 'static>(self: Arc<Self>, near: &TcpStream, far_in: S, far_out: S, shut: Shut) {
        let (near_in, near_out) = (near.try_clone().unwrap(), near.try_clone().unwrap());
        let end = near.try_clone().unwrap();
        self.streams.lock().unwrap().extend([shut, Box::new(move || drop(end.shutdown(Shutdown::Both)))]);
        let number = self.opened.fetch_add(1, Ordering::SeqCst);
        // Whether the last piece came from the server: then the next one from the client begins a round trip.
        let answered = Arc::new(Mutex::new(true));
        let (state, turn) = (Arc::clone(&self), Arc::clone(&answered));
        thread::spawn(move || {
            state.copy(number, near_in, far_out, || {
                if std::mem::take(&mut *turn.lock().unwrap()) {
                    state.round_trips.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        thread::spawn(move || {
            self.copy(number, far_in, &near_out, || *answered.lock().unwrap() = true);
            let _ = near_out.shutdown(Shutdown::Both);
        });
    }

    fn copy(&self, number: usize, mut from: impl Read, mut to: impl Write, note: impl Fn()) {
        let mut buffer = [0; 16 * 1024];
        let mut pieces = 0;
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            note();
            pieces += 1;
            let is_silent = |mode: &mut Mode| {
                let is_over = matches!(*mode, Mode::SilentAfter(most) if pieces > most);
                is_over || *mode == Mode::Silent || number < self.silent_below.load(Ordering::SeqCst)
            };
            let mode = self.mode.lock().unwrap();
            drop(self.changed.wait_while(mode, is_silent).unwrap());
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.silent_below.store(0, Ordering::SeqCst);
        self.forward();
        self.cut();
    }
}

// -------------------------------------------------------------------------------------------- a server of one's own

/// The command as the owner of the shared cluster: PostgreSQL and PgBouncer refuse to run as root.
fn as_owner(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    if geteuid().is_root() {
        let owner = fs::metadata(cluster_socket()).expect("the cluster's socket");
        command.uid(owner.uid()).gid(owner.gid());
    }
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[track_caller]
fn must(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A new directory beside the shared cluster's socket, which goes when the cluster goes; the database's user owns it.
fn directory(name: &str) -> PathBuf {
    let directory =
        cluster_socket().parent().unwrap().join(format!("{name}{}", &Uuid::now_v7().simple().to_string()[24..]));
    must(as_owner("mkdir").arg("-m").arg("0755").arg(&directory));
    directory
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Certificates of an authority of our own, in this directory: `ca.pem`, `server.pem`, `server.key`, `other.pem`.
fn certificates(directory: &Path) {
    let openssl = |arguments: &[&str]| must(as_owner("openssl").args(arguments).current_dir(directory));
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    for authority in ["ca", "other"] {
        let (key_file, file) = (format!("{authority}.key"), format!("{authority}.pem"));
        let own = ["-keyout", &key_file, "-out", &file, "-days", "2", "-subj", "/CN=latchkey test authority"];
        openssl(&[&["req", "-x509"], &key[..], &own].concat());
    }
    let own = ["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=latchkey test server"];
    openssl(&[&["req"], &key[..], &own].concat());
    let names = "subjectAltName=DNS:localhost,DNS:db.latchkey.test\nextendedKeyUsage=serverAuth\n";
    let extensions = directory.join("extensions");
    let mut tee = as_owner("tee").arg(&extensions).stdin(Stdio::piped()).spawn().expect("tee");
    tee.stdin.take().unwrap().write_all(names.as_bytes()).unwrap();
    assert!(tee.wait().unwrap().success());
    let sign =
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.pem";
    openssl(&sign.split(' ').collect::<Vec<_>>());
}

/// A PostgreSQL with TLS and SCRAM on a port of 127.0.0.1, and a socket that trusts the superuser `postgres`. Its
/// process belongs to the test's own process group, so that nothing of it stays.
pub struct Postgres {
    pub port: u16,
    pub directory: PathBuf,
    child: Mutex<Option<Child>>,
}

/// Of the role `ada`, which owns the database `ada`; needs escaping in a URL.
pub const ADA_PASSWORD: &str = "p@ss/w:rd?&='%";
pub const ADA_PASSWORD_ESCAPED: &str = "p%40ss%2Fw%3Ard%3F%26%3D%27%25";

impl Postgres {
    pub fn start() -> Self {
        let (directory, port) = (directory("pg"), free_port());
        let data = directory.join("data");
        let bin = PathBuf::from(std::env::var_os("LATCHKEY_TEST_POSTGRES_BIN").expect("make test brings PostgreSQL"));
        let initdb = ["-U", "postgres", "-E", "UTF8", "--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256"];
        must(as_owner(bin.join("initdb")).args(initdb).arg("--no-sync").arg("-D").arg(&data));
        certificates(&directory);
        let server = Self { port, directory, child: Mutex::default() };
        server.begin();
        let mut sql = server.sql("postgres");
        let password = ADA_PASSWORD.replace('\'', "''");
        sql.batch_execute(&format!("create role ada login password '{password}'")).unwrap();
        sql.batch_execute("create database ada owner ada").unwrap();
        server
    }

    /// One for all tests that never stop it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    pub fn begin(&self) {
        let bin = PathBuf::from(std::env::var_os("LATCHKEY_TEST_POSTGRES_BIN").unwrap());
        let setting = |name: &str, value: &str| ["-c".to_owned(), format!("{name}={value}")];
        let file = |name: &str| self.directory.join(name).display().to_string();
        let mut command = as_owner(bin.join("postgres"));
        command.arg("-D").arg(self.directory.join("data")).args(["-p", &self.port.to_string()]);
        command.args(setting("listen_addresses", "127.0.0.1")).args(setting("fsync", "off"));
        command.args(setting("unix_socket_directories", &self.directory.display().to_string()));
        command.args(setting("ssl", "on")).args(setting("ssl_cert_file", &file("server.pem")));
        command.args(setting("ssl_key_file", &file("server.key"))).args(setting("max_connections", "200"));
        *self.child.lock().unwrap() = Some(command.stderr(Stdio::null()).spawn().expect("postgres starts"));
        await_that("PostgreSQL answers", || Client::connect(&self.socket_url("postgres", "postgres"), NoTls).is_ok());
    }

    /// Ends it as `pg_ctl stop` does: `Signal::INT` is fast, `Signal::QUIT` immediate.
    pub fn stop(&self, signal: Signal) {
        let mut child = self.child.lock().unwrap().take().expect("it runs");
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();
    }

    /// Stops all its processes: the kernel still accepts and acknowledges for them.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        let child = self.child.lock().unwrap();
        let Some(main) = child.as_ref().map(Pid::from_child) else { return };
        let _ = kill_process(main, signal);
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            // After the name in parentheses come the state and the parent.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
            let pid = entry.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
            if let (true, Some(pid)) = (parent == Some(main.as_raw_nonzero().get()), pid) {
                let _ = kill_process(pid, signal);
            }
        }
    }

    pub fn restart(&self, signal: Signal) {
        self.stop(signal);
        self.begin();
    }

    /// The authority that signed the server's certificate; `other.pem` did not.
    pub fn authority(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    pub fn socket_url(&self, database: &str, role: &str) -> String {
        let directory = self.directory.display();
        format!("postgres:///{database}?host={directory}&port={}&user={role}", self.port)
    }

    pub fn sql(&self, database: &str) -> Client {
        Client::connect(&self.socket_url(database, "postgres"), NoTls).expect("PostgreSQL")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.thaw();
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = kill_process(Pid::from_child(&child), Signal::QUIT);
            let _ = child.wait();
        }
    }
}

// -------------------------------------------------------------------------------------------- PgBouncer

/// PgBouncer in transaction mode, in front of the shared cluster, for its role `postgres`; on a socket.
pub struct PgBouncer {
    directory: PathBuf,
    child: Child,
}

impl PgBouncer {
    pub fn start() -> Self {
        Self::start_with(5)
    }

    /// With so many connections to each database.
    pub fn start_with(connections: usize) -> Self {
        let directory = directory("pb");
        let cluster = cluster_socket();
        let port = cluster.extension().unwrap().to_str().unwrap().to_owned();
        let settings = format!(
            "[databases]\n* = host={} port={port} user=postgres\n[pgbouncer]\nlisten_addr =\nlisten_port = 6432\n\
             unix_socket_dir = {}\nauth_type = any\npool_mode = transaction\ndefault_pool_size = {connections}\n\
             max_client_conn = 500\nlogfile = {}/log\n",
            cluster.parent().unwrap().display(),
            directory.display(),
            directory.display(),
        );
        let file = std::env::temp_dir().join(format!("lk{}.ini", Uuid::now_v7().simple()));
        fs::write(&file, settings).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let child = as_owner("pgbouncer").arg(&file).stderr(Stdio::null()).spawn();
        let child = child.expect("PgBouncer is there: run make test-faults");
        let bouncer = Self { directory, child };
        await_that("PgBouncer listens", || UnixStream::connect(bouncer.directory.join(".s.PGSQL.6432")).is_ok());
        let _ = fs::remove_file(file);
        bouncer
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres:///{database}?host={}&port=6432&user=postgres", self.directory.display())
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

// ------------------------------------------------------------------------------------------------- other peers

/// A port whose queue of connections is full: further ones get no answer at all, as from a black hole.
pub struct BlackHole {
    pub address: SocketAddr,
    _held: (socket2::Socket, Vec<TcpStream>),
}

impl BlackHole {
    pub fn open() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            held.push(stream);
        }
        Self { address, _held: (socket, held) }
    }
}

/// A TLS server as `sslnegotiation=direct` wants it, in front of the shared cluster: TLS from the first byte, and only for
/// clients that name the protocol.
pub fn direct_tls(postgres: &Postgres) -> SocketAddr {
    let certificates = CertificateDer::pem_file_iter(postgres.authority("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(postgres.authority("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let certificates = certificates.map(Result::unwrap).collect();
    let mut config = config.with_no_client_auth().with_single_cert(certificates, key).unwrap();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            thread::spawn(move || unwrap_tls(rustls::StreamOwned::new(session, near)));
        }
    });
    address
}

fn unwrap_tls(mut near: rustls::StreamOwned<rustls::ServerConnection, TcpStream>) -> io::Result<()> {
    near.conn.complete_io(&mut near.sock)?;
    if near.conn.alpn_protocol() != Some(b"postgresql") {
        return Ok(());
    }
    let mut far = UnixStream::connect(cluster_socket())?;
    let moment = Some(Duration::from_millis(5));
    near.sock.set_read_timeout(moment)?;
    far.set_read_timeout(moment)?;
    loop {
        pass_on(&mut near, &mut far)?;
        pass_on(&mut far, &mut near)?;
    }
}

/// What is there to be read now.
fn pass_on(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    match from.read(&mut buffer) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) => to.write_all(&buffer[..length]).and_then(|()| to.flush()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// Answers every first message with this byte, as a server does that is asked for TLS.
pub fn answers_with(byte: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || -> io::Result<()> {
        for stream in listener.incoming() {
            let mut stream = stream?;
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 64]).and_then(|_| stream.write_all(&[byte]));
                let _ = stream.read_to_end(&mut Vec::new());
            });
        }
        Ok(())
    });
    address
}

/// TCP connections of this machine that lead to this address.
pub fn connections_to(address: SocketAddr) -> usize {
    let remote = format!(":{:04X} 01", address.port());
    let lines = fs::read_to_string("/proc/net/tcp").expect("Linux");
    let column = |line: &str| line.split_whitespace().skip(2).take(2).collect::<Vec<_>>().join(" ");
    lines.lines().filter(|line| column(line).ends_with(&remote)).count()
}
