//! Which model a turn uses: the message's, else the one that was set, else the operator's, else the first available.

use std::sync::PoisonError;

use serde::Deserialize;
use utoipa::ToSchema;

use super::{Model, ModelInfo};
use crate::domain::{
    OpenCode,
    error::{Code, Error, Result},
    event::{EventKind, ModelChanged},
    list::{List, Pagination},
    store::Batch,
};

/// The model that is to be used from the next turn on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetModel {
    /// `provider/id`; a bare id where only one provider has it.
    #[schema(min_length = 1, example = "mock/demo")]
    pub model_id: String,
}

impl OpenCode {
    /// Every known model, and whether it can be used now.
    pub async fn list_models(&self, provider: Option<&str>) -> Result<List<ModelInfo>> {
        let models = self.0.catalogue.list(provider.filter(|name| !name.is_empty())).await?;
        let as_of = self.read(|_| Ok(())).await?.as_of;
        let total = models.len();
        let pagination = Pagination {
            total: total as u64,
            limit: u32::try_from(total).unwrap_or(u32::MAX),
            offset: 0,
            next_cursor: None,
            has_more: false,
        };
        Ok(List { items: models, pagination, as_of })
    }

    /// Sets the model; it holds from the next turn on, also after a restart.
    pub async fn set_model(&self, wish: SetModel) -> Result<ModelInfo> {
        if wish.model_id.is_empty() {
            return Err(Error::field("model_id", "must not be empty"));
        }
        let model = self.0.catalogue.resolve(&wish.model_id).await.map_err(|error| error.of_field("model_id"))?;
        let domain = self.clone();
        self.to_the_end(async move {
            let _gate = domain.0.gate.lock().await;
            let previous = domain.chosen();
            if previous.as_ref() != Some(&model.info.id) {
                let changed = ModelChanged { model: model.info.id.clone(), previous };
                domain.0.store.append(Batch::new().event(None, EventKind::ModelChanged(changed))).await?;
                *domain.0.chosen.lock().unwrap_or_else(PoisonError::into_inner) = Some(model.info.id.clone());
            }
            Ok(model.info)
        })
        .await
    }

    /// The model of a message that names this one, or none.
    pub(in crate::domain) async fn model_for(&self, name: Option<&str>) -> Result<Model> {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            return self.0.catalogue.resolve(name).await.map_err(|error| error.of_field("model"));
        }
        match self.chosen().or_else(|| self.0.settings.model.clone()) {
            Some(name) => self.0.catalogue.resolve(&name).await,
            None => self.0.catalogue.default_model().await.ok_or_else(|| {
                Error::new(
                    Code::NoModel,
                    "no model is configured: set ANTHROPIC_API_KEY, OPENAI_API_KEY, another provider's key or \
                     LOCAL_ENDPOINT, choose one for the session, or name one in the message that starts a turn \
                     (\"model\": \"mock/demo\" needs no key)",
                )
            }),
        }
    }

    /// The model that the next turn uses; none if there is none, or if the chosen one cannot be used now.
    pub(in crate::domain) async fn current_model(&self) -> Result<Option<Model>> {
        match self.model_for(None).await {
            Ok(model) => Ok(Some(model)),
            Err(error) if matches!(error.code(), Code::NoModel | Code::InvalidArgument) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The name that a client set.
    fn chosen(&self) -> Option<String> {
        self.0.chosen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
