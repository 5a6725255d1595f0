//! The log of a job, as text that comes while the job runs.

use futures::StreamExt;

use crate::{Client, ClientError};

impl Client {
    /// Gives the log of a job piece by piece; with `follow=true` in `query` until the job is over. What was cut is not resumed.
    pub async fn logs(
        &self,
        id: &str,
        query: &[(&str, String)],
        on_bytes: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<(), ClientError> {
        let url = self.url(&format!("/v1/jobs/{id}/logs"), query);
        // a job may say nothing for hours
        let http = self.unhurried()?;
        let response = self.opened(|| http.get(&url).header("accept", "text/plain"), &url).await?;
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            on_bytes(&piece.map_err(|source| ClientError::Unreachable { url: url.clone(), source })?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Scripted, answer};

    #[tokio::test]
    async fn a_log_is_given_as_it_comes() {
        let served = Scripted::start([answer(503, &[("retry-after", "0")], ""), answer(200, &[], "one\ntwo\n")]).await;
        let mut log = Vec::new();
        let query = [("follow", "true".to_owned()), ("tail", "2".to_owned())];
        served.client().logs("job_1", &query, &mut |piece| log.extend_from_slice(piece)).await.unwrap();
        assert_eq!(String::from_utf8(log).unwrap(), "one\ntwo\n");
        assert_eq!(served.seen()[1].path, "/v1/jobs/job_1/logs?follow=true&tail=2");
    }
}
