//! The events of all jobs that the key sees, resumed after every cut. They have no end.

use crate::frames::Frames;
use crate::{Client, ClientError, StreamEvent};

pub struct Follow {
    frames: Frames,
}

impl Follow {
    pub(crate) fn new(client: Client, after: Option<&str>) -> Follow {
        Follow { frames: Frames::new(client, "/v1/events".to_owned(), "all jobs".to_owned(), after) }
    }

    pub async fn next(&mut self) -> Result<StreamEvent, ClientError> {
        let lost = || ClientError::StreamLost("all jobs".to_owned());
        self.frames.next().await?.ok_or_else(lost)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Scripted, answer};

    #[tokio::test]
    async fn a_stream_that_was_cut_goes_on_behind_the_last_event_and_is_asked_for_by_its_id() {
        let event = |id: u32| format!("id: {id}\nevent: queued\ndata: {{}}\n\n");
        let put_off = answer(503, &[("retry-after", "0")], "");
        let served =
            Scripted::start([answer(200, &[], &(event(4) + &event(5))), put_off, answer(200, &[], &event(6))]).await;
        let mut follow = served.client().follow(Some("3"));
        for id in ["4", "5", "6"] {
            assert_eq!(follow.next().await.unwrap().id.as_deref(), Some(id));
        }
        let asked: Vec<String> = served.seen().iter().map(|seen| seen.header("last-event-id").to_owned()).collect();
        assert_eq!(asked, ["3", "5", "5"]);
    }
}
