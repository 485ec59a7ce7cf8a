//! One model call with its retries: the only place that asks a provider again.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::StreamExt;

use super::{
    End, Turn, act,
    answer::{Answer, Step},
    clock::Phase,
    compact::limit,
    cost::{Metered, Outcome, Progress, code},
    history,
    spending::{self, Admitted, MAX_OUTPUT, Purpose},
};
use crate::domain::{
    error::Error,
    event::{EventKind, MessageEvent, ModelRetry},
    ledger::CallKind,
    message::{Message, Role},
    part::FinishReason,
    providers::{Delta, ProviderError, ProviderErrorKind, Request, ToolSpec},
    store::{Appending, Batch},
    tools,
    turn::TurnErrorCode,
    usage::Usage,
};

/// Most retries of one call.
const RETRIES: u32 = 8;
/// The first wait; each further one is twice as long.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// Attempts after which a provider that wants no wait is not believed.
const TRUSTED: u32 = 2;
/// The longest wait that we choose ourselves.
const MAX_DELAY: Duration = Duration::from_secs(30);
/// The longest that all waits of one call take together.
const MAX_WAITING: Duration = Duration::from_secs(180);
/// Most deltas that one transaction takes.
const GROUP: usize = 64;

/// A whole answer.
pub(super) struct Answered {
    /// Why it ended.
    pub(super) reason: FinishReason,
    /// The answer, if the model said anything at all.
    pub(super) message: Option<Message>,
    /// The TOOL message that waits for its results, if it calls tools.
    pub(super) results: Option<Message>,
}

/// The retries of one call.
#[derive(Default)]
pub(super) struct Retries {
    made: u32,
    waited: Duration,
}

impl Retries {
    /// The number of the coming attempt, from 1.
    pub(super) fn attempt(&self) -> u32 {
        self.made + 1
    }
}

/// What came of one attempt.
enum Attempt {
    Whole(Box<Answered>),
    Failed(ProviderError),
    Canceled,
    Broken(Error),
}

impl Turn {
    /// Asks the model for its next answer, and makes room in its context before where that is needed.
    pub(super) async fn call(&mut self, system: &str) -> Result<Answered, End> {
        self.make_room(system, false).await?;
        let mut request = self.request(system);
        let mut retries = Retries::default();
        let mut refused = false;
        loop {
            let most = self.request_output();
            let admitted = self.admit(self.prompt_at_most(system), most, Purpose::Answer).await?;
            request.max_output_tokens = admitted.output;
            let error = match self.attempt(&request, retries.attempt(), admitted).await {
                Attempt::Whole(answered) => {
                    self.domain.0.model_failing.store(false, Ordering::Relaxed);
                    return Ok(*answered);
                }
                Attempt::Canceled => return Err(End::canceled(&self.running)),
                Attempt::Broken(error) => return Err(End::from(error)),
                Attempt::Failed(error) => error,
            };
            self.domain.0.model_failing.store(true, Ordering::Relaxed);
            let too_long = error.kind == ProviderErrorKind::TooLong;
            // Once: what is refused in short too is at fault itself.
            if too_long && !std::mem::replace(&mut refused, true) && self.make_room(system, true).await? {
                request = self.request(system);
                retries.made += 1;
            } else if !self.again(&mut retries, &error).await? {
                return Err(failed(&error, retries.attempt()));
            }
        }
    }

    /// Whether a call that failed is made again; if so, its time has come when this answers.
    pub(super) async fn again(&self, retries: &mut Retries, error: &ProviderError) -> Result<bool, End> {
        let attempt = retries.attempt();
        let delay = delay(attempt, error.retry_after);
        let helps = match error.kind {
            ProviderErrorKind::Rejected | ProviderErrorKind::TooLong => false,
            ProviderErrorKind::Unavailable | ProviderErrorKind::Stalled => true,
        };
        if !helps || attempt > RETRIES || retries.waited + delay > MAX_WAITING {
            return Ok(false);
        }
        retries.made += 1;
        retries.waited += delay;
        let retry = ModelRetry {
            attempt,
            of: RETRIES,
            delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            code: code(error.kind),
        };
        let batch = Batch::new().event(Some(&self.id), EventKind::ModelRetry(retry));
        self.append(batch).await?;
        let _waiting = self.running.clock().enter(Phase::RetryWait);
        tokio::select! {
            () = self.tools.cancel.cancelled() => Err(End::canceled(&self.running)),
            () = tokio::time::sleep(delay) => Ok(true),
        }
    }

    /// The tools that the model may call.
    pub(super) fn tool_specs(&self) -> Vec<ToolSpec> {
        if self.model.info.supports_tools { tools::TOOLS.iter().map(tools::Entry::spec).collect() } else { Vec::new() }
    }

    /// Most tokens that the next answer may have; 0 where nothing limits it.
    fn request_output(&self) -> u32 {
        let info = &self.model.info;
        let max_output_tokens = info.max_output_tokens.min(MAX_OUTPUT);
        let (window, size) = (u64::from(info.context_window), self.context.size);
        if size > limit(window) {
            return max_output_tokens;
        }
        // Some providers refuse a prompt that leaves no room for as long an answer.
        max_output_tokens.min(u32::try_from(window - size).unwrap_or(u32::MAX))
    }

    /// Asks whether a call may be made; one that may not ends the turn.
    pub(super) async fn admit(&self, prompt: u64, output: u32, purpose: Purpose) -> Result<Admitted, End> {
        let call = spending::Call { model: &self.model, prompt, output, purpose };
        match self.running.spending().admit(&call) {
            Ok(admitted) => Ok(admitted),
            Err(exhausted) => Err(self.exhausted(&exhausted).await),
        }
    }

    fn request(&self, system: &str) -> Request {
        let info = &self.model.info;
        Request {
            model: self.model.model_id.clone(),
            full_model: info.id.clone(),
            system: system.to_owned(),
            messages: history::for_model(&self.context.told(&self.messages), info.supports_tools),
            tools: self.tool_specs(),
            max_output_tokens: self.request_output(),
            images: info.supports_attachments,
            reasoning: info.supports_reasoning,
        }
    }

    /// One attempt, with its row in the ledger.
    async fn attempt(&self, request: &Request, number: u32, admitted: Admitted) -> Attempt {
        let call = Metered::begin(&self.id, &self.model, CallKind::Turn, number, admitted);
        // Not beside the request: whatever the provider hears of is in the ledger, even if we end in that moment.
        if let Err(error) = self.append(call.opening()).await {
            return Attempt::Broken(error);
        }
        let clock = self.running.clock();
        let asking = clock.enter(Phase::ModelWait);
        let mut answer = Answer::new(self.id.clone(), self.message(Role::Assistant));
        // The batch before: it is asked after when more comes, so that nobody is woken between two words to hear that
        // all is well.
        let mut last: Option<Appending> = None;
        let mut deltas = self.model.provider.stream(request).ready_chunks(GROUP);
        let mut refusals = self.domain.0.store.refusals();
        // Nothing is sent before the answer is first asked for.
        let mut progress = if self.tools.cancel.is_cancelled() { Progress::Planned } else { Progress::Asked };
        let outcome: Outcome = loop {
            let next = tokio::select! {
                biased;
                () = self.tools.cancel.cancelled() => break Err(None),
                // The store holds the sender, so that this is always a change.
                _ = refusals.changed() => None,
                next = deltas.next() => Some(next),
            };
            if let Some(last) = last.take()
                && let Err(error) = clock.during(Phase::Storing, last.done()).await
            {
                return Attempt::Broken(error);
            }
            let Some(next) = next else { continue };
            let Some(chunk) = next else {
                break Err(Some(cut("the provider ended its answer in the middle")));
            };
            let (step, batch) = apply(&mut answer, chunk);
            if answer.is_shown() {
                progress = Progress::Begun;
                clock.switch(Phase::ModelStream);
            }
            match clock.during(Phase::Storing, self.domain.0.store.begin_append(batch)).await {
                Ok(appending) => last = Some(appending),
                Err(error) => return Attempt::Broken(error),
            }
            match step {
                Ok(Step::Grew) => {}
                Ok(Step::Whole(reason)) => {
                    progress = Progress::Whole;
                    break Ok(reason);
                }
                Ok(Step::TooLong) => break Ok(FinishReason::MaxTokens),
                Err(error) => break Err(Some(error)),
            }
        };
        // The connection is closed before the ending is stored: a cancelled call costs nothing more.
        drop(deltas);
        drop(asking);
        if let Some(last) = last
            && let Err(error) = clock.during(Phase::Storing, last.done()).await
        {
            return Attempt::Broken(error);
        }
        let spent = call.spent(answer.tokens, progress, &outcome);
        let reason = match &outcome {
            Ok(reason) => *reason,
            Err(None) if self.is_out_of_time() => FinishReason::BudgetExhausted,
            Err(None) => FinishReason::Canceled,
            Err(Some(_)) => FinishReason::Error,
        };
        let (message, mut batch) = if answer.is_shown() {
            let (message, batch) = answer.finish(reason, Usage::from(spent), Batch::new());
            (Some(message), batch)
        } else {
            (None, Batch::new())
        };
        // In the same transaction: there is no moment at which a crash would leave calls without results.
        let results = message.as_ref().and_then(act::results_of).map(|mut results| {
            if reason != FinishReason::ToolUse {
                act::close_results(&mut results, &[], "not run: the answer that called it was cut off");
            }
            results
        });
        if let Some(message) = results.clone() {
            batch = batch.event(Some(&self.id), EventKind::MessageCreated(MessageEvent { message }));
        }
        let mut row = call.row(&outcome, spent, message.as_ref().map(|message| message.id.clone()));
        if reason == FinishReason::BudgetExhausted {
            // Nobody has cancelled it.
            row.outcome = TurnErrorCode::BudgetExhausted.as_str();
        }
        if let Err(error) = self.append(batch.ledger(row)).await {
            return Attempt::Broken(error);
        }
        match outcome {
            Ok(reason) => Attempt::Whole(Box::new(Answered { reason, message, results })),
            Err(None) => Attempt::Canceled,
            Err(Some(error)) => Attempt::Failed(error),
        }
    }
}

/// Bytes that a tool takes in a prompt.
pub(super) fn size_of_spec(tool: &ToolSpec) -> usize {
    tool.name.len() + tool.description.len() + tool.schema.to_string().len()
}

/// Applies what came together; neighbouring pieces of the same text become one event.
fn apply(answer: &mut Answer, chunk: Vec<Result<Delta, ProviderError>>) -> (Result<Step, ProviderError>, Batch) {
    let mut batch = Batch::new();
    let mut deltas = chunk.into_iter().peekable();
    while let Some(delta) = deltas.next() {
        let mut delta = match delta {
            Ok(delta) => delta,
            Err(error) => return (Err(error), batch),
        };
        while let Some(Ok(next)) = deltas.peek() {
            match (&mut delta, next) {
                (Delta::Text(text), Delta::Text(more)) | (Delta::Reasoning(text), Delta::Reasoning(more)) => {
                    text.push_str(more);
                }
                (Delta::ToolInput { index, text }, Delta::ToolInput { index: same, text: more }) if index == same => {
                    text.push_str(more);
                }
                _ => break,
            }
            deltas.next();
        }
        let (step, more) = answer.apply(delta, batch);
        batch = more;
        match step {
            Step::Grew => {}
            Step::Whole(_) | Step::TooLong => return (Ok(step), batch),
        }
    }
    (Ok(Step::Grew), batch)
}

fn cut(message: &str) -> ProviderError {
    ProviderError { kind: ProviderErrorKind::Unavailable, message: message.into(), status: None, retry_after: None }
}

/// How long to wait before the next attempt: as the provider says, else doubling with jitter.
fn delay(attempt: u32, retry_after: Option<Duration>) -> Duration {
    // Who says "at once" again and again is not taken at that word.
    if let Some(after) = retry_after.filter(|after| attempt <= TRUSTED || *after >= FIRST_DELAY) {
        return after;
    }
    let full = FIRST_DELAY.saturating_mul(1 << (attempt - 1).min(16)).min(MAX_DELAY);
    // Between three quarters and all of it. The random part of a new id is as good a die as any.
    let die = (uuid::Uuid::new_v4().as_u128() % 256) as u32;
    full * 3 / 4 + full / 4 * die / 256
}

fn failed(error: &ProviderError, attempts: u32) -> End {
    let mut details = serde_json::json!({ "attempts": attempts });
    if let Some(status) = error.status {
        details["provider_status"] = status.into();
    }
    End::failed(FinishReason::Error, code(error.kind), error.message.clone(), Some(details))
}
