//! What a call may do: refusals as statuses, and the scope of each RPC.

use axum::{extract::Request, middleware::Next, response::Response};
use tonic::Status;

use crate::domain::{Caller, Needs, Refusal, Scope, needs};

/// Answers a call that is not let in, or whose caller may not make it.
pub(super) async fn check(request: Request, next: Next) -> Response {
    if let Some(refusal) = request.extensions().get::<Refusal>() {
        return Status::from(crate::domain::Error::from(refusal.clone())).into_http();
    }
    let caller = Caller::current().unwrap_or_else(Caller::without_token);
    match caller.check(of(request.uri().path())) {
        Ok(()) => next.run(request).await,
        Err(error) => Status::from(error).into_http(),
    }
}

/// What the method at this path takes. Of other services health is for probes, and reflection for whoever has a token.
fn of(path: &str) -> Needs {
    match path.strip_prefix("/opencode.v1.OpenCodeService/") {
        Some(method) => needs(&verb(method)).unwrap_or(Needs::Scope(Scope::Admin)),
        None if path.starts_with("/grpc.health.v1.Health/") => Needs::Nothing,
        None => Needs::Token,
    }
}

/// The verb of a method: `get_session` of `GetSession`.
fn verb(method: &str) -> String {
    let mut verb = String::with_capacity(method.len() + 4);
    for letter in method.chars() {
        if letter.is_ascii_uppercase() && !verb.is_empty() {
            verb.push('_');
        }
        verb.push(letter.to_ascii_lowercase());
    }
    verb
}
