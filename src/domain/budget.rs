//! Budgets: what a turn and a session may use, as settings and messages have it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    error::{Error, Result},
    model::Model,
    money::Picodollars,
};

/// Limits of one turn, in a message. What is absent stays at the server's own limit, and nothing may be above that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Calls of models for the turn, its title and summaries included. One that the provider refused does not count.
    #[schema(minimum = 1)]
    pub model_calls: Option<i64>,
    /// Seconds from the start of the turn. They also end a call or a tool that runs.
    #[schema(minimum = 1)]
    pub seconds: Option<i64>,
    /// Input and output tokens of all calls together.
    #[schema(minimum = 1)]
    pub tokens: Option<i64>,
    /// US dollars, as a decimal in a string. Needs a model whose price is known.
    #[schema(example = "0.50")]
    pub usd: Option<String>,
}

/// What may be used; what is `None` has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Model calls.
    pub model_calls: Option<u64>,
    /// Seconds of wall time.
    pub seconds: Option<u64>,
    /// Input and output tokens together.
    pub tokens: Option<u64>,
    /// US dollars.
    pub usd: Option<Picodollars>,
}

/// What turns and the session may use; reaching a limit ends the turn with `budget_exhausted`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budgets {
    /// Each turn.
    pub turn: Limits,
    /// All turns of the session together.
    pub session: Limits,
}

/// What a limit is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ModelCalls,
    Seconds,
    Tokens,
    Usd,
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Turn,
    Session,
}

impl Kind {
    /// As clients see it, and as the field of a message is called.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ModelCalls => "model_calls",
            Self::Seconds => "seconds",
            Self::Tokens => "tokens",
            Self::Usd => "usd",
        }
    }
}

impl Scope {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Session => "session",
        }
    }

    /// The variable that sets the limit.
    pub(super) fn setting(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (Self::Turn, Kind::ModelCalls) => "OPENCODE_TURN_MODEL_CALLS",
            (Self::Turn, Kind::Seconds) => "OPENCODE_TURN_SECONDS",
            (Self::Turn, Kind::Tokens) => "OPENCODE_TURN_TOKENS",
            (Self::Turn, Kind::Usd) => "OPENCODE_TURN_USD",
            (Self::Session, Kind::ModelCalls) => "OPENCODE_SESSION_MODEL_CALLS",
            (Self::Session, Kind::Seconds) => "OPENCODE_SESSION_SECONDS",
            (Self::Session, Kind::Tokens) => "OPENCODE_SESSION_TOKENS",
            (Self::Session, Kind::Usd) => "OPENCODE_SESSION_USD",
        }
    }
}

impl Budget {
    /// What the message asks for, where the settings allow it.
    pub(super) fn check(&self, most: &Limits) -> Result<Limits> {
        let Self { model_calls, seconds, tokens, usd } = self;
        let count = |kind: Kind, wanted: Option<i64>, most: Option<u64>| -> Result<Option<u64>> {
            let Some(wanted) = wanted else { return Ok(None) };
            let wanted = u64::try_from(wanted).ok().filter(|wanted| *wanted > 0);
            let wanted = wanted.ok_or_else(|| Error::field(field(kind), "must be at least 1"))?;
            match most.filter(|most| wanted > *most) {
                Some(most) => Err(above(kind, &most.to_string())),
                None => Ok(Some(wanted)),
            }
        };
        let usd = usd.as_deref().map(|text| {
            let wanted: Picodollars =
                text.parse().map_err(|error| Error::field(field(Kind::Usd), format!("{text:?} {error}")))?;
            match most.usd.filter(|most| wanted > *most) {
                Some(most) => Err(above(Kind::Usd, &most.to_string())),
                None => Ok(wanted),
            }
        });
        Ok(Limits {
            model_calls: count(Kind::ModelCalls, *model_calls, most.model_calls)?,
            seconds: count(Kind::Seconds, *seconds, most.seconds)?,
            tokens: count(Kind::Tokens, *tokens, most.tokens)?,
            usd: usd.transpose()?,
        })
    }
}

fn field(kind: Kind) -> String {
    format!("budget.{}", kind.as_str())
}

fn above(kind: Kind, most: &str) -> Error {
    let setting = Scope::Turn.setting(kind);
    Error::field(field(kind), format!("is above {most}, which the setting {setting} allows"))
}

impl Limits {
    /// These, and `others` where they say nothing.
    pub(super) fn or(self, others: Self) -> Self {
        Self {
            model_calls: self.model_calls.or(others.model_calls),
            seconds: self.seconds.or(others.seconds),
            tokens: self.tokens.or(others.tokens),
            usd: self.usd.or(others.usd),
        }
    }

    pub(super) fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::ModelCalls => self.model_calls.is_some(),
            Kind::Seconds => self.seconds.is_some(),
            Kind::Tokens => self.tokens.is_some(),
            Kind::Usd => self.usd.is_some(),
        }
    }
}

/// Refuses a model without a price where money is limited: nobody could say when the limit is reached.
pub(super) fn refuse_unpriced(model: &Model, asked: &Limits, budgets: &Budgets) -> Result<()> {
    if model.price.is_some() {
        return Ok(());
    }
    let name = &model.info.id;
    let help = "name a model with a price, or give it one in OPENCODE_MODELS_FILE";
    if asked.usd.is_some() {
        let words = format!("cannot be kept: the price of {name} is not known; {help}");
        return Err(Error::field(field(Kind::Usd), words));
    }
    let scope = match (budgets.turn.usd, budgets.session.usd) {
        (Some(_), _) => Scope::Turn,
        (None, Some(_)) => Scope::Session,
        (None, None) => return Ok(()),
    };
    let setting = scope.setting(Kind::Usd);
    Err(Error::field("model", format!("{name} has no known price, so that {setting} cannot be kept; {help}")))
}
