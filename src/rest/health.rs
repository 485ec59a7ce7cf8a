//! `GET /health`, and the probes of who runs the container.

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    error::{Problem, Result},
    extract::{NoParams, Query},
};
use crate::domain::{Health, HealthStatus, OpenCode};

/// Whether the server can do its work.
///
/// 503 if the store or the workspace fail, and while the server drains; a missing or failing model changes no status.
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

/// The answer of a probe that finds all well.
#[derive(Serialize, ToSchema)]
pub(super) struct Probed {
    /// `ok`.
    status: &'static str,
}

const WELL: Json<Probed> = Json(Probed { status: "ok" });

/// Whether the server gets on, for who restarts it where it does not.
///
/// 503 names what is wedged: the log's writer, or the runtime, as far as that can answer. A server that does not answer at
/// all is wedged too.
#[utoipa::path(get, path = "/livez", tag = "health", responses(
    (status = 200, description = "It gets on", body = Probed),
    (status = 503, description = "Something is wedged", body = Problem, content_type = "application/problem+json"),
    (status = 400, description = "A parameter that is not known", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn livez(State(domain): State<OpenCode>, _: Query<NoParams>) -> Result<Json<Probed>> {
    domain.liveness()?;
    Ok(WELL)
}

/// Whether the server takes messages, for who sends it clients.
///
/// 503 says why not: the log cannot be written, the workspace is not there, or the server drains.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, description = "It is ready", body = Probed),
    (status = 503, description = "It is not", body = Problem, content_type = "application/problem+json"),
    (status = 400, description = "A parameter that is not known", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn readyz(State(domain): State<OpenCode>, _: Query<NoParams>) -> Result<Json<Probed>> {
    domain.readiness().await.check()?;
    Ok(WELL)
}
