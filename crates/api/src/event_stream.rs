//! A job followed over SSE. The stream reads rows after its cursor; a write in this process only makes it look sooner.
//!
//! Invariant: what has an id is the stored log, in order and without gaps, wherever the client begins; `snapshot`, `progress`
//! and `end` have none, so that a resumed stream never skips an event.

use std::{
    collections::VecDeque,
    convert::Infallible,
    time::{Duration, Instant},
};

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event as Frame, KeepAlive},
    },
};
use futures::{Stream, stream};
use jobs::{Event, Job, Progress};
use serde::Serialize;

use crate::Api;
use crate::caller::Caller;
use crate::event_object::EventObject;
use crate::job_object::{JobObject, ProgressObject};

/// How long a client waits before it reconnects.
const RETRY: Duration = Duration::from_millis(3000);
/// Longest time between two looks at the rows.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A stream outlives its key by no more than this.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Shortest time between two reports of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// Silence after which a comment keeps proxies from closing the connection.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Events read at once.
const EVENTS_MAX: u32 = 100;

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(crate) fn respond(api: Api, caller: Caller, job: Job, after: i64) -> Response {
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE_EVERY).text("keep-alive");
    let mut response =
        Sse::new(frames(Follower::begin(api, caller, job, after))).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

fn frames(follower: Follower) -> impl Stream<Item = Result<Frame, Infallible>> {
    stream::unfold(follower, |mut follower| async move {
        let frame = follower.next().await?;
        Some((Ok(frame), follower))
    })
}

struct Follower {
    api: Api,
    caller: Caller,
    /// When its key was last known to be good.
    checked: Instant,
    /// As it was at the latest look.
    job: Job,
    /// The newest event that is told.
    cursor: i64,
    told: Told,
    pending: VecDeque<Frame>,
    ended: bool,
}

struct Told {
    progress: Option<Progress>,
    at: Instant,
}

impl Follower {
    fn begin(api: Api, caller: Caller, job: Job, after: i64) -> Self {
        let snapshot = frame("snapshot", &JobObject::from(job.clone())).retry(RETRY);
        let told = Told { progress: job.progress.clone(), at: Instant::now() };
        Self {
            api,
            caller,
            checked: Instant::now(),
            job,
            cursor: after,
            told,
            pending: VecDeque::from([snapshot]),
            ended: false,
        }
    }

    /// `None` ends the stream: the job has ended, the server stops, or the database is away and the client shall come again.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.pending.pop_front() {
                return Some(frame);
            }
            if self.ended || self.api.shutdown.is_cancelled() {
                return None;
            }
            if let Err(error) = self.look().await {
                tracing::warn!(job = %self.job.id, %error, "event stream cut: the database does not answer");
                return None;
            }
            if self.pending.is_empty() && !self.ended {
                self.wait().await;
            }
        }
    }

    async fn look(&mut self) -> jobs::Result<()> {
        if self.checked.elapsed() >= CHECK_EVERY {
            self.checked = Instant::now();
            if !self.api.store.is_good_key(&self.caller.key).await? {
                self.ended = true;
                return Ok(());
            }
        }
        // nothing is appended once a job has ended; what an ended job's log lacks is forgotten
        let had_ended = self.job.status.is_terminal();
        let events = self.api.store.events(&self.job.id, self.cursor, EVENTS_MAX).await?;
        if had_ended && events.is_empty() {
            self.cursor = self.job.last_seq;
        }
        events.into_iter().for_each(|event| self.tell(event));
        // read after the events: its `last_seq` then says whether there were more
        if let Some(job) = self.api.store.job(&self.job.id).await? {
            self.job = job;
        }
        if self.job.status.is_terminal() {
            self.end_if_all_is_told();
        } else {
            self.tell_progress();
        }
        Ok(())
    }

    fn tell(&mut self, event: Event) {
        self.cursor = event.seq;
        let kind = event.kind.as_str();
        let object = EventObject::from(event);
        self.pending.push_back(frame(kind, &object).id(&object.id));
    }

    fn end_if_all_is_told(&mut self) {
        if self.cursor >= self.job.last_seq {
            self.pending.push_back(frame("end", &JobObject::from(self.job.clone())));
            self.ended = true;
        }
    }

    fn tell_progress(&mut self) {
        let Some(progress) = &self.job.progress else { return };
        if self.told.progress.as_ref() == Some(progress) || self.told.at.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.pending.push_back(frame("progress", &ProgressObject::from(progress)));
        self.told = Told { progress: Some(progress.clone()), at: Instant::now() };
    }

    async fn wait(&self) {
        tokio::select! {
            () = self.api.shutdown.cancelled() => {}
            () = self.api.store.changed(LOOK_EVERY) => {}
        }
    }
}

fn frame(kind: &str, data: &impl Serialize) -> Frame {
    let data = serde_json::to_string(data).expect("objects of texts and numbers are JSON");
    Frame::default().event(kind).data(data)
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use jobs::{JobId, Phase};
    use serde_json::json;

    use super::{Caller, EVENTS_MAX, Follower, Instant, PROGRESS_EVERY};
    use crate::testing::{Answer, Fixture, Frame, Reader};

    const STREAM: (&str, &str) = ("accept", "text/event-stream");

    async fn a_finished_job(fixture: &Fixture) -> JobId {
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        for phase in Phase::ALL {
            fixture.record(&lease, phase).await;
        }
        fixture.succeed(&lease).await;
        id
    }

    async fn resumed(fixture: &Fixture, id: &JobId, last: &str) -> Answer {
        let headers = [STREAM, ("last-event-id", last)];
        fixture.send(Method::GET, &format!("/v1/jobs/{id}/events"), &headers, "").await
    }

    fn stored(frames: &[Frame]) -> Vec<Frame> {
        frames.iter().filter(|frame| frame.id.is_some()).cloned().collect()
    }

    #[tokio::test]
    async fn a_stream_ends_by_itself_after_the_last_event() {
        let fixture = Fixture::new().await;
        let id = a_finished_job(&fixture).await;
        let answer = fixture.send(Method::GET, &format!("/v1/jobs/{id}/events"), &[STREAM], "").await;
        assert_eq!(answer.header("content-type"), "text/event-stream");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-accel-buffering"), "no");
        let frames = answer.frames();
        let kinds: Vec<&str> = frames.iter().map(|frame| frame.event.as_str()).collect();
        assert_eq!(
            kinds,
            ["snapshot", "queued", "started", "warning", "warning", "warning", "warning", "succeeded", "end"]
        );
        assert!(answer.text().starts_with("event: snapshot\n") && answer.text().contains("\nretry: 3000\n"));
        assert_eq!((&frames[0].data["status"], &frames[8].data["status"]), (&json!("succeeded"), &json!("succeeded")));
        assert_eq!((frames[0].id.as_ref(), frames[8].id.as_ref()), (None, None));
        assert_eq!(frames[1].data["id"], "1");
    }

    #[tokio::test]
    async fn a_stream_whose_events_are_forgotten_ends_all_the_same() {
        let fixture = Fixture::new().await;
        let id = a_finished_job(&fixture).await;
        tokio::time::sleep(PROGRESS_EVERY / 50).await;
        let retention = jobs::Retention { events: Some(PROGRESS_EVERY / 500), ..jobs::Retention::default() };
        assert!(fixture.store.prune(retention).await.unwrap().events > 0);
        let path = format!("/v1/jobs/{id}/events");
        let stream = fixture.send(Method::GET, &path, &[STREAM], "");
        let answer = tokio::time::timeout(40 * PROGRESS_EVERY, stream).await.expect("the stream ends");
        assert!(answer.text().contains("event: end"), "{}", answer.text());
    }

    #[tokio::test]
    async fn a_stream_resumed_at_every_event_gives_the_same_log() {
        let fixture = Fixture::new().await;
        let id = a_finished_job(&fixture).await;
        let whole = stored(&resumed(&fixture, &id, "0").await.frames());
        assert_eq!(whole.len(), 7);
        for cut in 1..whole.len() {
            let last = whole[cut - 1].id.clone().unwrap();
            let rest = stored(&resumed(&fixture, &id, &last).await.frames());
            assert_eq!([&whole[..cut], &rest].concat(), whole, "cut at {cut}");
            let by_query =
                fixture.send(Method::GET, &format!("/v1/jobs/{id}/events?after={last}"), &[STREAM], "").await;
            assert_eq!(stored(&by_query.frames()), rest);
        }
    }

    #[tokio::test]
    async fn a_reconnect_after_the_end_gets_204() {
        let fixture = Fixture::new().await;
        let id = a_finished_job(&fixture).await;
        let answer = resumed(&fixture, &id, "7").await;
        assert_eq!((answer.status, answer.text().as_str()), (204, ""));
    }

    #[tokio::test]
    async fn a_live_job_is_followed_to_its_end() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let mut reader = Reader::open(&fixture, &format!("/v1/jobs/{id}/events")).await;
        assert_eq!(reader.next().await.unwrap().event, "snapshot");
        assert_eq!(reader.next().await.unwrap().event, "queued");
        let lease = fixture.claim().await;
        assert_eq!(reader.next().await.unwrap().event, "started");
        fixture.progress(&lease, 10).await;
        fixture.progress(&lease, 50).await;
        let told = loop {
            let told = reader.next().await.unwrap();
            assert_eq!((told.event.as_str(), &told.id), ("progress", &None));
            // whether the first report was told as well depends on how soon the second came
            if told.data["fraction"] != 0.1 {
                break told;
            }
        };
        assert_eq!(told.data["fraction"], 0.5);
        fixture.post(&format!("/v1/jobs/{id}/cancel"), "").await;
        assert_eq!(reader.next().await.unwrap().event, "cancel_requested");
        fixture.fail(&lease).await;
        assert_eq!(reader.next().await.unwrap().event, "failed");
        let end = reader.next().await.unwrap();
        assert_eq!((end.event.as_str(), &end.data["status"]), ("end", &json!("failed")));
        assert!(reader.next().await.is_none());
    }

    #[tokio::test]
    async fn progress_is_told_when_it_changed_and_not_too_often() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        let mut follower = {
            let caller = Caller::default();
            Follower::begin(fixture.api(), caller, fixture.store.job(&id).await.unwrap().unwrap(), 2)
        };
        follower.pending.clear();
        let long_ago = || Instant::now().checked_sub(PROGRESS_EVERY).unwrap();
        let soon = || Instant::now() + PROGRESS_EVERY;
        for (percent, at, told) in
            [(1, soon(), 0), (1, long_ago(), 1), (1, long_ago(), 0), (2, soon(), 0), (2, long_ago(), 1)]
        {
            fixture.progress(&lease, percent).await;
            follower.told.at = at;
            follower.look().await.unwrap();
            assert_eq!(follower.pending.drain(..).count(), told, "{percent} %");
        }
    }

    #[tokio::test]
    async fn a_log_longer_than_one_read_is_whole() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        for _ in 0..EVENTS_MAX + 20 {
            fixture.record(&lease, Phase::Merging).await;
        }
        fixture.succeed(&lease).await;
        let ids: Vec<_> =
            stored(&resumed(&fixture, &id, "0").await.frames()).into_iter().map(|f| f.id.unwrap()).collect();
        assert_eq!(ids, (1..=EVENTS_MAX + 23).map(|seq| seq.to_string()).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_stream_ends_without_end_when_the_server_stops() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let mut reader = Reader::open(&fixture, &format!("/v1/jobs/{id}/events")).await;
        assert_eq!(reader.next().await.unwrap().event, "snapshot");
        assert_eq!(reader.next().await.unwrap().event, "queued");
        fixture.shutdown.cancel();
        assert!(reader.next().await.is_none());
    }
}
