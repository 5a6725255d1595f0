//! A job's event stream, resumed after every cut until its end.

use serde_json::Value;

use crate::frames::Frames;
use crate::{Client, ClientError};

#[derive(Debug, Clone, PartialEq)]
pub struct StreamEvent {
    /// Where a stream goes on behind it; `None` for what is not stored.
    pub id: Option<String>,
    /// `snapshot`, `progress`, `end`, or the type of a stored event.
    pub kind: String,
    pub data: Value,
}

pub struct Watch {
    client: Client,
    id: String,
    frames: Frames,
    ended: bool,
}

impl Watch {
    pub(crate) fn new(client: Client, id: String) -> Watch {
        let frames = Frames::new(client.clone(), format!("/v1/jobs/{id}/events"), format!("job {id}"), None);
        Watch { client, id, frames, ended: false }
    }

    /// The next event; `None` after `end`.
    pub async fn next(&mut self) -> Result<Option<StreamEvent>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let event = match self.frames.next().await? {
            Some(event) => event,
            // nothing came after what we have seen: the job had ended
            None => StreamEvent { id: None, kind: "end".to_owned(), data: self.client.job(&self.id).await? },
        };
        self.ended = event.kind == "end";
        Ok(Some(event))
    }
}
