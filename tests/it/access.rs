//! Who may come in: every operation through every door, with each thing that may be wrong about a request.

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tonic::Code;

use crate::{
    parity::{rpcs, snake},
    support::{
        Answer, Server, Setup,
        rpc::{Rpc, details},
        soon,
    },
};

/// What may be wrong, and the code of the refusal.
const WRONGS: [(&str, &str); 5] = [
    ("no token", "unauthenticated"),
    ("wrong token", "unauthenticated"),
    ("expired token", "unauthenticated"),
    ("wrong scope", "permission_denied"),
    ("foreign origin", "permission_denied"),
];

/// Operations that need no token.
const OPEN: [&str; 3] = ["health", "livez", "readyz"];

/// An entry of the file of tokens.
pub fn entry(id: &str, scopes: &[&str], expires: Option<&str>) -> Value {
    let sha256: String = Sha256::digest(token(id).as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut entry = json!({"id": id, "sha256": sha256, "scopes": scopes});
    if let Some(at) = expires {
        entry["expires"] = at.into();
    }
    entry
}

/// The token of an id.
pub fn token(id: &str) -> String {
    format!("a-token-for-tests-{id}")
}

pub const SCOPES: [&str; 6] = ["read", "messages:write", "files:read", "files:write", "permissions:reply", "admin"];

/// A server that asks for tokens: `all` with every scope, `no-<scope>` with every other, `expired`.
pub fn guarded() -> Setup {
    let setup = Setup::new();
    let mut tokens = vec![entry("all", &SCOPES, None), entry("expired", &SCOPES, Some("2020-01-01T00:00:00Z"))];
    for scope in SCOPES {
        let others: Vec<&str> = SCOPES.into_iter().filter(|other| *other != scope).collect();
        tokens.push(entry(&format!("no-{}", scope.replace(':', "-")), &others, None));
    }
    write(&setup, &tokens);
    let file = setup.folder("tokens.json").display().to_string();
    setup.env("OPENCODE_API_TOKENS_FILE", file)
}

pub fn write(setup: &Setup, tokens: &[Value]) {
    let (new, file) = (setup.folder("tokens.new"), setup.folder("tokens.json"));
    fs::write(&new, json!({ "tokens": tokens }).to_string()).expect("a file");
    fs::rename(new, file).expect("in its place");
}

/// An operation of REST: its id, method and a path that it takes, and the scope that the document names.
pub struct Operation {
    id: String,
    pub method: String,
    pub path: String,
    scope: Option<String>,
}

pub fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(&opencode_api::openapi()).expect("the document is JSON");
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("a path item") {
            let id = operation["operationId"].as_str().expect("an id").to_owned();
            let security = operation["security"].as_array().unwrap_or_else(|| panic!("{id} says nothing of tokens"));
            let scope =
                security.first().and_then(|it| it["token"].get(0)).map(|it| it.as_str().expect("a scope").to_owned());
            let path = path.replace("{index}", "0").replace("{id}", "x").replace("{path}", "x");
            found.push(Operation { id, method: method.to_uppercase(), path, scope });
        }
    }
    found
}

/// The scope that the comment of each RPC names.
fn scopes_of_rpcs() -> Vec<(String, String)> {
    let text = include_str!("../../proto/opencode/v1/opencode_service.proto");
    let mut found = Vec::new();
    let mut before = "";
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("rpc ") {
            let scope = before.strip_prefix("// Scope: ").and_then(|scope| scope.strip_suffix('.'));
            let name = rest.split('(').next().expect("a name");
            found.push((name.to_owned(), scope.unwrap_or_else(|| panic!("{name} names no scope")).to_owned()));
        }
        before = line;
    }
    found
}

/// Each request comes from an address of its own: too many wrong tokens are another refusal.
fn an_address() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let last = LAST.fetch_add(1, Ordering::Relaxed);
    format!("10.1.{}.{}", last / 250, last % 250)
}

/// The token and the origin of a request that is wrong in this way.
fn headers(wrong: &str, scope: Option<&str>) -> Vec<(&'static str, String)> {
    let id = match wrong {
        "no token" => None,
        "wrong token" => Some("nobody".to_owned()),
        "expired token" => Some("expired".to_owned()),
        "wrong scope" => Some(format!("no-{}", scope.expect("a scope").replace(':', "-"))),
        _ => Some("all".to_owned()),
    };
    let mut headers = vec![("x-forwarded-for", an_address())];
    headers.extend(id.map(|id| ("authorization", format!("Bearer {}", token(&id)))));
    if wrong == "foreign origin" {
        headers.push(("origin", "http://evil.example".to_owned()));
    }
    headers
}

/// Only the head of an answer: some are streams.
async fn status(request: reqwest::RequestBuilder) -> u16 {
    soon("an answer", request.send()).await.expect("an answer").status().as_u16()
}

fn rest(server: &Server, operation: &Operation, headers: &[(&'static str, String)]) -> reqwest::RequestBuilder {
    let request = server.rest.request(&operation.method, &operation.path);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
    if ["POST", "PUT", "PATCH"].contains(&&*operation.method) { request.json(&json!({"nothing": 1})) } else { request }
}

#[tokio::test]
async fn every_route_asks_for_what_its_document_says() {
    let server = guarded().env("OPENCODE_TRUST_PROXY", true).start();
    let mut details = std::collections::BTreeSet::new();
    for operation in operations() {
        let what = format!("{} {}", operation.method, operation.path);
        let is_open = OPEN.contains(&&*operation.id);
        for (wrong, code) in WRONGS {
            if wrong == "wrong scope" && operation.scope.is_none() {
                continue;
            }
            let request = rest(&server, &operation, &headers(wrong, operation.scope.as_deref()));
            if is_open && wrong != "foreign origin" {
                assert_eq!(status(request).await, 200, "{what} with {wrong}");
                continue;
            }
            let answer = Answer::of(request).await;
            if operation.method == "HEAD" {
                assert_eq!(answer.status, if code == "unauthenticated" { 401 } else { 403 }, "{what} with {wrong}");
                continue;
            }
            if code == "unauthenticated" {
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{what} with {wrong}");
                let mut problem = answer.problem(401, code);
                problem["request_id"] = Value::Null;
                details.insert(problem.to_string());
            } else {
                let problem = answer.problem(403, code);
                let named = operation.scope.as_deref().filter(|_| wrong == "wrong scope").unwrap_or_default();
                assert!(problem["detail"].as_str().expect("words").contains(named), "{what}: {problem}");
            }
        }
        let found = status(rest(&server, &operation, &headers("", None))).await;
        assert!(found != 401 && found != 403, "{what} with a good token is {found}");
    }
    assert_eq!(details.len(), 1, "whatever is wrong with a token, the answer is one: {details:?}");
    // Nothing of what has no operation is told either.
    for path in ["/nothing", "/files/", "/opencode.v1.OpenCodeService/Nothing"] {
        Answer::of(server.rest.request("GET", path)).await.problem(401, "unauthenticated");
    }
}

/// Whether a call was refused for its token: a path may be refused too.
fn about_tokens(status: &tonic::Status) -> bool {
    status.code() == Code::Unauthenticated || status.message().contains("token")
}

async fn called(
    server: &Server,
    web: bool,
    name: &str,
    headers: Vec<(&'static str, String)>,
) -> Result<(), tonic::Status> {
    let rpc = if web { Rpc::web(&server.rest.base) } else { Rpc::grpc(&server.rest.base) };
    let rpc = headers.into_iter().fold(rpc, |rpc, (name, value)| rpc.header(name, &value));
    rpc.post(&format!("/opencode.v1.OpenCodeService/{name}"), Vec::new()).await.map(drop)
}

#[tokio::test]
async fn every_rpc_asks_for_what_its_comment_says() {
    let server = guarded().env("OPENCODE_TRUST_PROXY", true).start();
    let documented = operations();
    let scopes = scopes_of_rpcs();
    assert_eq!(scopes.len(), rpcs().len());
    for (name, scope) in &scopes {
        if let Some(operation) = documented.iter().find(|operation| operation.id == snake(name)) {
            let same = match scope.as_str() {
                "none" => OPEN.contains(&&*operation.id),
                "any token" => operation.scope.is_none() && !OPEN.contains(&&*operation.id),
                scope => operation.scope.as_deref() == Some(scope),
            };
            assert!(same, "{name}: the OpenAPI document and the proto name different scopes");
        }
        let scope = SCOPES.contains(&&**scope).then_some(scope.as_str());
        for web in [false, true] {
            for (wrong, code) in WRONGS {
                if wrong == "wrong scope" && scope.is_none() {
                    continue;
                }
                let answer = called(&server, web, name, headers(wrong, scope)).await;
                if OPEN.contains(&&*snake(name)) && wrong != "foreign origin" {
                    assert!(answer.is_ok(), "{name} with {wrong}: {answer:?}");
                    continue;
                }
                let refused = answer.expect_err(&format!("{name} with {wrong}"));
                assert_eq!(details(&refused).reason, code.to_uppercase(), "{name} with {wrong}: {refused:?}");
                let expected = if code == "unauthenticated" { Code::Unauthenticated } else { Code::PermissionDenied };
                assert_eq!(refused.code(), expected);
            }
            let refused = called(&server, web, name, headers("", None)).await.err();
            assert!(refused.is_none_or(|status| !about_tokens(&status)), "{name} with a good token");
        }
    }
}

#[tokio::test]
async fn where_nobody_is_asked_for_a_token_the_host_has_to_be_ours() {
    let server = Setup::new().env("OPENCODE_ALLOWED_HOSTS", "api.example").start();
    for operation in operations() {
        for (host, is_ours) in [("evil.example", false), ("localhost", true), ("api.example:1", true)] {
            let found = status(rest(&server, &operation, &[("host", host.to_owned())])).await;
            let is_let_in = found != 403 || operation.id == "reply_permission" && is_ours;
            assert_eq!(is_let_in, is_ours || OPEN.contains(&&*operation.id), "{} at {host}: {found}", operation.id);
        }
    }
    // In HTTP/2 the name is in the address of the request.
    let base: tonic::transport::Endpoint = server.rest.base.parse().expect("an address");
    for (name, is_ours) in [("http://evil.example", false), ("http://api.example", true)] {
        let channel = base.clone().origin(name.parse().expect("a name")).connect().await.expect("a connection");
        let host = name.trim_start_matches("http://");
        for rpc in [Rpc::over(channel, &server.rest.base), Rpc::web(&server.rest.base).header("host", host)] {
            for (method, _) in scopes_of_rpcs() {
                let answer = rpc.post(&format!("/opencode.v1.OpenCodeService/{method}"), Vec::new()).await;
                let is_refused = answer.is_err_and(|status| status.message().contains("Host"));
                assert_eq!(is_refused, !is_ours && !OPEN.contains(&&*snake(&method)), "{method} at {name}");
            }
        }
    }
}
