//! Requests that are refused before they were read, and calls in a form that is not taken: the client hears why, and
//! whether its connection can go on.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Answer, Server, Setup, soon};

async fn connect(server: &Server) -> TcpStream {
    let address = server.rest.base.trim_start_matches("http://");
    TcpStream::connect(address).await.expect("a connection")
}

/// Reads an answer and whatever follows, up to the end of the connection.
async fn to_the_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    soon("the end of the connection", stream.read_to_end(&mut answer)).await.expect("an end without a reset");
    String::from_utf8(answer).expect("text").to_lowercase()
}

const CASES: [(&str, &str, &str); 6] = [
    ("POST /nothing", "application/json", "404"),
    ("POST /health", "application/json", "405"),
    ("POST /messages", "application/json", "413"),
    ("PUT /agent/model", "text/plain", "415"),
    ("POST /session/reset", "application/json", "413"),
    ("POST /opencode.v1.OpenCodeService/GetSession", "application/json", "415"),
];

#[tokio::test]
async fn a_client_that_still_sends_is_told_and_then_let_go() {
    let server = Setup::new().env("OPENCODE_MAX_BODY_BYTES", 100_000).start();
    for (line, kind, status) in CASES {
        let mut stream = connect(&server).await;
        let size = 20 * 1024 * 1024;
        let head =
            format!("{line} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {size}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("it is sent");
        let (mut reading, mut writing) = stream.split();
        // As many clients do it: all is sent before anything is read.
        let sending = async {
            let piece = vec![b' '; 64 * 1024];
            for _ in 0..size / piece.len() {
                writing.write_all(&piece).await.expect("nothing is reset while the client sends");
            }
        };
        soon("all to be sent", sending).await;
        let mut answer = Vec::new();
        soon("the answer", reading.read_to_end(&mut answer)).await.expect("an answer and an end");
        let answer = String::from_utf8(answer).expect("text").to_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{line}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{line}: {answer}");
    }
}

#[tokio::test]
async fn a_client_that_waits_for_leave_is_refused_without_it() {
    let server = Setup::new().env("OPENCODE_MAX_BODY_BYTES", 100_000).start();
    for (line, kind, status) in CASES {
        let mut stream = connect(&server).await;
        let head = format!(
            "{line} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: 1000000\r\nexpect: 100-continue\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("it is sent");
        let mut answer = vec![0; 12];
        soon("the answer", stream.read_exact(&mut answer)).await.expect("an answer");
        assert_eq!(answer, format!("HTTP/1.1 {status}").into_bytes(), "{line}");
        stream.shutdown().await.expect("it is closed");
        assert!(to_the_end(&mut stream).await.contains("connection: close\r\n"), "{line}");
    }
}

#[tokio::test]
async fn a_short_body_costs_no_connection() {
    let server = Setup::new().start();
    let mut stream = connect(&server).await;
    for (line, kind, status) in [
        ("POST /nothing", "application/json", "404"),
        ("POST /health", "application/json", "405"),
        ("PUT /agent/model", "text/plain", "415"),
        ("POST /messages", "application/json", "400"),
    ] {
        let request =
            format!("{line} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: 2\r\n\r\n{{}}");
        stream.write_all(request.as_bytes()).await.expect("it is sent");
        let mut answer = Vec::new();
        let reading = async {
            while !answer.ends_with(b"}") {
                assert_ne!(stream.read_buf(&mut answer).await.expect("an answer"), 0, "{line} ended the connection");
            }
        };
        soon("the answer", reading).await;
        let answer = String::from_utf8(answer).expect("text").to_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{line}: {answer}");
        assert!(!answer.contains("connection: close"), "{line}: {answer}");
    }
}

#[tokio::test]
async fn calls_in_a_form_that_is_not_taken_are_told_which_are() {
    let server = Setup::new().start();
    let method = "/opencode.v1.OpenCodeService/GetSession";
    for (path, kind, words) in [
        (method, "application/grpc", "HTTP/2"),
        (method, "application/grpc+proto", "HTTP/2"),
        ("/messages", "application/grpc", "HTTP/2"),
        (method, "application/grpc-web+json", "application/grpc-web-text"),
        (method, "application/grpcish", "application/grpc-web-text"),
        (method, "application/json", "this is a gRPC method"),
        ("/grpc.health.v1.Health/Check", "", "this is a gRPC method"),
    ] {
        let request = server.rest.request("POST", path).header("content-type", kind).body("{}");
        let problem = Answer::of(request).await.problem(415, "unsupported_media_type");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(words)), "{path} {kind}: {problem}");
    }
    for kind in ["application/json", "application/grpc", "application/grpc-web"] {
        let answer = Answer::of(server.rest.request("GET", method).header("content-type", kind)).await;
        assert_eq!(answer.header("allow"), Some("POST"));
        answer.problem(405, "method_not_allowed");
    }
    // What is read is no call, whatever type it claims.
    let read = Answer::of(server.rest.request("GET", "/session").header("content-type", "application/grpc")).await;
    assert_eq!(read.ok()["message_count"], json!(0));
}
