//! Everything that headers can tell of a request, told before a job exists.

use engine::Plan;
use recipe::Refusal;

use crate::merge_request::MergeRequest;
use crate::problem::{Code, Finding, Problem, Result};
use crate::{Api, ApiConfig};

/// Plans the merge without reading tensor data, or says what stands in its way.
pub(crate) async fn plan(api: &Api, request: MergeRequest) -> Result<(MergeRequest, Plan)> {
    let permit = api.planning.clone().acquire_owned().await.map_err(|_| Problem::internal())?;
    let config = api.config.clone();
    // reading headers blocks, and outlives a client that hangs up: the permit goes along
    let work = move || {
        let _permit = permit;
        check_output(&config, request.output.as_deref())?;
        let plan = plan_recipe(&config, &request)?;
        Ok((request, plan))
    };
    tokio::task::spawn_blocking(work).await.map_err(Problem::of_task)?
}

fn plan_recipe(config: &ApiConfig, request: &MergeRequest) -> Result<Plan, Refusal> {
    let recipe = request.recipe.parse(request.lenient)?;
    Ok(engine::open_and_plan(&recipe, &config.access, &config.settings)?.0)
}

fn check_output(config: &ApiConfig, output: Option<&str>) -> Result<()> {
    let Some(path) = output else { return Ok(()) };
    let refused = |code, word, detail: String| {
        Err(Problem::new(code, detail.clone()).with_errors(vec![Finding::at("/output", word, detail)]))
    };
    match config.outputs.resolve(path) {
        Err(detail) => refused(Code::InvalidOutput, "invalid_output", detail),
        Ok(target) if target.symlink_metadata().is_ok() => {
            let detail = format!("output {path:?} exists already; nothing is overwritten, so name another");
            refused(Code::OutputExists, "output_exists", detail)
        }
        Ok(_) => Ok(()),
    }
}
