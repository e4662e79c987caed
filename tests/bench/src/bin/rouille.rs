//! rouille's own server, for comparison: the same answer as `GET /healthz`, at the address in `LISTEN`.

fn main() {
    let address = std::env::var("LISTEN").expect("LISTEN");
    let server = rouille::Server::new(address, |_| rouille::Response::json(&serde_json::json!({"status": "ok"})));
    let server = server.expect("a free port");
    println!("listening on http://{}", server.server_addr());
    server.run();
}
