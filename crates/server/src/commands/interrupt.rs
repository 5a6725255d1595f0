//! A signal while a job is watched: it may end the job, and always says what becomes of it.

use client::{Client, ClientError};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::groups;
use crate::report::Failure;

const SIGINT: u8 = 2;
const SIGTERM: u8 = 15;

/// Hears what comes from its making on, so that none is lost between two waits.
pub struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    pub fn listen() -> Result<Interrupt, Failure> {
        let heard = |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot hear signals: {error}")));
        Ok(Interrupt { interrupt: heard(SignalKind::interrupt())?, terminate: heard(SignalKind::terminate())? })
    }

    /// The number of the signal that came.
    pub async fn came(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => SIGINT,
            _ = self.terminate.recv() => SIGTERM,
        }
    }

    /// Follows a job or group to its end, unless a signal comes before.
    pub async fn or_end(
        &mut self,
        client: &Client,
        id: &str,
        cancels: bool,
        follow: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let signal = tokio::select! {
            ended = follow => return ended,
            signal = self.came() => signal,
        };
        if !cancels {
            let how = format!("`amalgam watch {id}` follows it, `amalgam cancel {id}` ends it");
            return Err(Failure::interrupted(signal, format!("interrupted; {id} goes on: {how}")));
        }
        let told = tokio::select! {
            cancelled = cancel(client, id) => match cancelled {
                Ok(_) => format!("{id} is cancelled"),
                Err(error) if error.status() == Some(409) => format!("{id} had ended"),
                Err(error) => format!("{id} could not be cancelled and may go on: {error}"),
            },
            // whoever asks twice does not want to wait
            _ = self.came() => format!("{id} may go on, as the server has not answered yet"),
        };
        Err(Failure::interrupted(signal, format!("interrupted; {told}")))
    }
}

pub async fn cancel(client: &Client, id: &str) -> Result<Value, ClientError> {
    if groups::is_group(id) { client.cancel_group(id).await } else { client.cancel(id).await }
}
