//! What a request may do: refusals as problem documents, and the scope of each route.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::error::ApiError;
use crate::domain::{Caller, Needs, Refusal, Scope, needs};

/// Answers a request that is not let in.
pub(crate) async fn refuse(request: Request, next: Next) -> Response {
    match request.extensions().get::<Refusal>() {
        Some(refusal) => ApiError(refusal.clone().into()).into_response(),
        None => next.run(request).await,
    }
}

/// What the route of a verb takes.
pub(super) fn of(verb: &str) -> Needs {
    needs(verb).unwrap_or(Needs::Scope(Scope::Admin))
}

/// Lets through who may do this.
pub(super) async fn allow(State(needs): State<Needs>, request: Request, next: Next) -> Response {
    match Caller::current().unwrap_or_else(Caller::without_token).check(needs) {
        Ok(()) => next.run(request).await,
        Err(error) => ApiError(error).into_response(),
    }
}
