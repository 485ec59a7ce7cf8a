//! `GET /models`.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    error::{Problem, Result},
    extract::Query,
    message::EventCursor,
};
use crate::domain::{List, ModelInfo, OpenCode, Pagination};

/// Which models are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelParams {
    /// Only those of this provider, such as `anthropic`.
    provider: Option<String>,
}

/// The models.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelList {
    /// The models.
    models: Vec<ModelInfo>,
    /// All are on one page.
    pagination: Pagination,
    /// Follow the events from here.
    as_of: String,
    /// Its number.
    as_of_seq: u64,
}

/// Every known model, and whether it can be used now.
#[utoipa::path(get, path = "/models", tag = "models", params(ModelParams), responses(
    (status = 200, description = "The models", body = ModelList),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list_models(
    State(domain): State<OpenCode>,
    Query(params): Query<ModelParams>,
) -> Result<(EventCursor, Json<ModelList>)> {
    let List { items, pagination, as_of } = domain.list_models(params.provider.as_deref()).await?;
    let list = ModelList { models: items, pagination, as_of: as_of.to_string(), as_of_seq: as_of.seq };
    Ok((EventCursor(as_of), Json(list)))
}
