//! The frames of an event stream, resumed by the id of the last one after every cut.

use std::pin::Pin;
use std::time::{Duration, Instant};

use eventsource_stream::{Event, EventStreamError, Eventsource};
use futures::{Stream, StreamExt};
use serde_json::Value;

use crate::patience::Tries;
use crate::{Client, ClientError, StreamEvent, refused};

/// Reconnects in a row without an event between them, before the stream counts as lost.
const RECONNECTS_MAX: u32 = 30;
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// A server may ask for more; in this time it is asked at least once.
const RECONNECT_AFTER_MAX: Duration = Duration::from_secs(30);
/// It may ask for none at all, and is not to be flooded.
const RECONNECT_AFTER_MIN: Duration = Duration::from_millis(100);

type Open = Pin<Box<dyn Stream<Item = Result<Event, EventStreamError<reqwest::Error>>> + Send>>;

pub(crate) struct Frames {
    client: Client,
    path: String,
    /// What it is the stream of, in words.
    subject: String,
    last_event_id: String,
    open: Option<Open>,
    was_open: bool,
    tries: Tries,
    reconnects: u32,
    cut_since: Instant,
}

impl Frames {
    pub(crate) fn new(client: Client, path: String, subject: String, after: Option<&str>) -> Frames {
        Frames {
            tries: client.tries(),
            client,
            path,
            subject,
            last_event_id: after.unwrap_or_default().to_owned(),
            open: None,
            was_open: false,
            reconnects: 0,
            cut_since: Instant::now(),
        }
    }

    /// The next event; `None` where the server says that none will come behind the last.
    pub(crate) async fn next(&mut self) -> Result<Option<StreamEvent>, ClientError> {
        loop {
            let Some(open) = &mut self.open else {
                if self.is_over().await? {
                    return Ok(None);
                }
                continue;
            };
            match open.next().await {
                Some(Ok(event)) => return Ok(Some(self.taken(event))),
                // cut, or ended by a server that stops: come back where we were
                Some(Err(_)) | None => {
                    self.open = None;
                    self.come_back(None).await?;
                }
            }
        }
    }

    fn taken(&mut self, event: Event) -> StreamEvent {
        // a snapshot comes with every connection and is no progress
        if event.event != "snapshot" {
            self.reconnects = 0;
            self.tries.reset();
        }
        let id = (!event.id.is_empty()).then_some(event.id);
        if let Some(id) = &id {
            self.last_event_id.clone_from(id);
        }
        let data = serde_json::from_str(&event.data).unwrap_or(Value::String(event.data));
        StreamEvent { id, kind: event.event, data }
    }

    /// Connects, or waits before the next try; whether there is nothing to come.
    async fn is_over(&mut self) -> Result<bool, ClientError> {
        match self.connect().await {
            Ok(open) => {
                self.was_open |= open.is_some();
                self.open = open;
                Ok(self.open.is_none())
            }
            Err(error) if self.is_cut(&error) => self.come_back(Some(&error)).await.map(|()| false),
            Err(error) => self.tries.wait(error).await.map(|()| false),
        }
    }

    /// A server that has streamed once will be there again; what it cannot now says nothing of the stream.
    fn is_cut(&self, error: &ClientError) -> bool {
        match error {
            ClientError::Refused(refused) => refused.status >= 500 || (refused.status == 429 && self.was_open),
            ClientError::Unreachable { .. } => self.was_open,
            _ => false,
        }
    }

    /// `None` where nothing comes behind what we have seen.
    async fn connect(&self) -> Result<Option<Open>, ClientError> {
        let url = self.client.url(&self.path, &[]);
        let mut request = self.client.http.get(&url).header("accept", "text/event-stream");
        if !self.last_event_id.is_empty() {
            request = request.header("last-event-id", &self.last_event_id);
        }
        let response = self.client.keyed(request).send().await;
        let response = response.map_err(|source| ClientError::Unreachable { url, source })?;
        match response.status() {
            status if status.as_u16() == 204 => Ok(None),
            status if status.is_success() => Ok(Some(Box::pin(response.bytes_stream().eventsource()))),
            _ => Err(refused(response).await),
        }
    }

    async fn come_back(&mut self, error: Option<&ClientError>) -> Result<(), ClientError> {
        if self.reconnects == 0 {
            self.cut_since = Instant::now();
        }
        self.reconnects += 1;
        if self.reconnects > RECONNECTS_MAX && self.cut_since.elapsed() > self.client.patience.busy {
            return Err(ClientError::StreamLost(self.subject.clone()));
        }
        let wait = error
            .and_then(ClientError::retry_after)
            .unwrap_or(RECONNECT_AFTER)
            .clamp(RECONNECT_AFTER_MIN, RECONNECT_AFTER_MAX);
        if let Some(error) = error {
            self.client.patience.tell(error, wait);
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }
}
