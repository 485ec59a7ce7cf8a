//! `/capabilities` and `/tickets`.

use axum::{Json, extract::State, http::HeaderMap};

use super::{
    error::{Problem, Result},
    extract::{Body, NoParams, Query},
};
use crate::domain::{Capabilities, CreateTicket, OpenCode, Ticket};

/// What this server can do, and every limit that a client may meet.
#[utoipa::path(get, path = "/capabilities", tag = "health", responses(
    (status = 200, description = "Features, limits, sandbox", body = Capabilities),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn get_capabilities(State(domain): State<OpenCode>, _: Query<NoParams>) -> Result<Json<Capabilities>> {
    Ok(Json(domain.get_capabilities()))
}

/// Makes a ticket for what cannot send a header: EventSource, download links.
///
/// It stands for the caller's token in `?ticket=` of GET and HEAD requests of just this path, from just the origin that asks
/// for it. It is good for its first use within 60 s, and again until 60 s after its last answer has ended, 12 h at most.
#[utoipa::path(post, path = "/tickets", tag = "health", request_body = CreateTicket, responses(
    (status = 200, description = "The ticket", body = Ticket),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn create_ticket(
    State(domain): State<OpenCode>,
    _: Query<NoParams>,
    headers: HeaderMap,
    Body(wish): Body<CreateTicket>,
) -> Result<Json<Ticket>> {
    let origin = headers.get("origin").and_then(|origin| origin.to_str().ok()).map(str::to_owned);
    Ok(Json(domain.create_ticket(CreateTicket { origin, ..wish })?))
}
