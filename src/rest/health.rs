//! `GET /health`.

use axum::{Json, extract::State, http::StatusCode};

use super::{
    error::{Problem, Result},
    extract::{NoParams, Query},
};
use crate::domain::{Health, HealthStatus, OpenCode};

/// Whether the server can do its work.
///
/// 503 if the store or the workspace fail; a missing or failing model changes no status.
#[utoipa::path(get, path = "/health", tag = "health", responses(
    (status = 200, description = "It serves", body = Health),
    (status = 503, description = "It does not, or only in part", body = Health),
    (status = 400, description = "A parameter that is not known", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn health(State(domain): State<OpenCode>, _: Query<NoParams>) -> Result<(StatusCode, Json<Health>)> {
    let health = domain.health().await;
    let status = match health.status {
        HealthStatus::Serving => StatusCode::OK,
        HealthStatus::NotServing => StatusCode::SERVICE_UNAVAILABLE,
    };
    Ok((status, Json(health)))
}
