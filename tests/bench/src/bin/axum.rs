//! The async way, for comparison: axum, one route, the same answer as `GET /healthz`. The argument is the address.

use axum::{Json, Router, routing::get};

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let address = std::env::args().nth(1).expect("an address");
        let listener = tokio::net::TcpListener::bind(address).await.expect("a free port");
        println!("listening on http://{}", listener.local_addr().expect("an address"));
        let app = Router::new().route("/healthz", get(|| async { Json(serde_json::json!({"status": "ok"})) }));
        axum::serve(listener, app).await.expect("to serve");
    });
}
