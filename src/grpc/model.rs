//! The RPCs of models, and their conversions.

use tonic::Response;

use super::{
    Result, pb,
    session::{page, text},
};
use crate::domain::{ModelInfo, OpenCode, SetModel};

pub(super) async fn list_models(domain: &OpenCode, wish: pb::ListModelsRequest) -> Result<pb::ListModelsResponse> {
    let list = domain.list_models(text(wish.provider).as_deref()).await?;
    Ok(page(list, |models, pagination, as_of, as_of_seq| pb::ListModelsResponse {
        models,
        pagination,
        as_of,
        as_of_seq,
    }))
}

pub(super) async fn set_model(domain: &OpenCode, wish: pb::SetModelRequest) -> Result<pb::SetModelResponse> {
    let model = domain.set_model(SetModel { model_id: wish.model_id }).await?;
    Ok(Response::new(pb::SetModelResponse { model: Some(model.into()) }))
}

impl From<ModelInfo> for pb::ModelInfo {
    fn from(model: ModelInfo) -> Self {
        let ModelInfo {
            id,
            name,
            provider,
            context_window,
            max_output_tokens,
            price_known,
            cost_per_1m_input,
            cost_per_1m_output,
            cost_per_1m_cache_read,
            cost_per_1m_cache_write,
            supports_attachments,
            supports_tools,
            supports_reasoning,
            capabilities,
            available,
            unavailable_reason,
        } = model;
        let tokens = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        Self {
            id,
            name,
            provider,
            context_window: tokens(context_window),
            cost_per_1m_input,
            cost_per_1m_output,
            supports_attachments,
            supports_tools,
            capabilities,
            available,
            unavailable_reason: unavailable_reason.unwrap_or_default(),
            max_output_tokens: tokens(max_output_tokens),
            cost_per_1m_cache_read,
            cost_per_1m_cache_write,
            supports_reasoning,
            price_known,
        }
    }
}
