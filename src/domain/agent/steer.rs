//! Messages that a turn is sent while it runs. Each is stored before it is here, so that none is lost with the turn.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::{End, Turn};
use crate::domain::{
    event::{EventKind, MessageEvent},
    message::Message,
    queue::MAX_WAITING,
    store::Batch,
};

/// The messages on their way to a turn.
pub(in crate::domain) struct Steering {
    state: Mutex<State>,
    /// One that was on its way is here, or is not to come.
    came: Notify,
}

struct State {
    /// The turn takes messages: it is not at its end.
    open: bool,
    /// How many are being stored.
    coming: usize,
    waiting: Vec<Message>,
    any: bool,
}

/// A message that is being stored. Dropped without it, none comes.
pub(in crate::domain) struct Coming<'a>(&'a Steering);

/// Why a turn takes no message.
pub(in crate::domain) enum Closed {
    /// It is at its end.
    Ending,
    /// As many wait as may.
    Full,
}

impl Steering {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State { open: true, coming: 0, waiting: Vec::new(), any: false }),
            came: Notify::new(),
        }
    }

    /// Announces a message: the turn does not end before it is there.
    pub(in crate::domain) fn announce(&self) -> Result<Coming<'_>, Closed> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.open {
            return Err(Closed::Ending);
        }
        if state.coming + state.waiting.len() >= MAX_WAITING {
            return Err(Closed::Full);
        }
        state.coming += 1;
        state.any = true;
        Ok(Coming(self))
    }

    fn waiting(&self) -> Vec<Message> {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).waiting)
    }

    /// The messages that are to be answered before the turn ends; with none it takes no more.
    async fn last(&self) -> Vec<Message> {
        loop {
            let came = self.came.notified();
            {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if !state.waiting.is_empty() {
                    return std::mem::take(&mut state.waiting);
                }
                if state.coming == 0 {
                    state.open = false;
                    return Vec::new();
                }
            }
            came.await;
        }
    }

    /// Takes no more, whatever waits: that is in the log. Answers whether any ever came.
    pub(super) async fn close(&self) -> bool {
        while !self.last().await.is_empty() {}
        self.state.lock().unwrap_or_else(PoisonError::into_inner).any
    }
}

impl Coming<'_> {
    /// It is stored.
    pub(in crate::domain) fn came(self, message: Message) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).waiting.push(message);
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).coming -= 1;
        self.0.came.notify_one();
    }
}

impl Turn {
    /// Takes what was sent since, between two calls of the model.
    pub(super) async fn take_steered(&mut self) -> Result<(), End> {
        let messages = self.running.steering().waiting();
        self.tell_steered(messages).await
    }

    /// Whether there is something left to be answered before the turn ends.
    pub(super) async fn is_steered_on(&mut self) -> Result<bool, End> {
        let messages = self.running.steering().last().await;
        let any = !messages.is_empty();
        self.tell_steered(messages).await?;
        Ok(any)
    }

    async fn tell_steered(&mut self, messages: Vec<Message>) -> Result<(), End> {
        if messages.is_empty() {
            return Ok(());
        }
        let batch = messages.iter().cloned().fold(Batch::new(), |batch, message| {
            batch.event(Some(&self.id), EventKind::MessageCreated(MessageEvent { message }))
        });
        self.domain.0.store.append(batch).await?;
        self.messages.extend(messages);
        Ok(())
    }
}
