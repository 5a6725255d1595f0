//! Everything that headers can tell of a request, told before a job exists.

use checkpoint::{Access, OutputRoots};
use engine::StagedPlan;
use recipe::{Refusal, Variant, with_each};

use crate::caller::Caller;
use crate::merge_request::MergeRequest;
use crate::problem::{Code, Finding, Problem, Result};
use crate::{Api, ApiConfig};

/// A request of which every merge can be done, as far as headers tell.
pub(crate) struct Planned<T> {
    pub(crate) request: MergeRequest,
    pub(crate) merges: Vec<PlannedMerge<T>>,
    /// What all merges have to say, each thing once.
    pub(crate) warnings: Vec<Finding>,
}

pub(crate) struct PlannedMerge<T> {
    pub(crate) variant: Variant,
    /// A recipe that is complete alone.
    pub(crate) recipe: String,
    /// What was taken of the plan: plans themselves are large.
    pub(crate) of_plan: T,
}

/// Plans each merge without reading tensor data, or says everything that stands in their way. `take` keeps of each plan
/// what is needed.
pub(crate) async fn plan<T, F>(api: &Api, caller: &Caller, request: MergeRequest, take: F) -> Result<Planned<T>>
where
    T: Send + 'static,
    F: Fn(&Variant, StagedPlan) -> T + Send + 'static,
{
    let permit = api.planning.clone().acquire_owned().await.map_err(|_| Problem::internal())?;
    let config = api.config.clone();
    let outputs = config.outputs.of_tenant(&caller.tenant);
    let access = config.access.of_tenant(&caller.tenant, &config.private, &config.outputs);
    // reading headers blocks, and outlives a client that hangs up: the permit goes along
    let work = move || {
        let _permit = permit;
        plan_all(&config, &access, &outputs, request, take)
    };
    tokio::task::spawn_blocking(work).await.map_err(Problem::of_task)?
}

/// Where a merge goes: below the output of the request, by the name of its variant.
pub(crate) fn output_of(request: &MergeRequest, variant: &Variant) -> Option<String> {
    let output = request.output.as_deref()?;
    Some(variant.name().map_or_else(|| output.to_owned(), |name| format!("{}/{name}", output.trim_end_matches('/'))))
}

fn plan_all<T>(
    config: &ApiConfig,
    access: &Access,
    outputs: &OutputRoots,
    request: MergeRequest,
    take: impl Fn(&Variant, StagedPlan) -> T,
) -> Result<Planned<T>> {
    let variants = request.recipe.variants()?;
    check_outputs(outputs, &request, &variants)?;
    let (planned, warnings) = with_each(&variants, |variant| {
        let (recipe, mut plan) = plan_one(config, access, &request, variant)?;
        plan.warnings = variant.all_placed(plan.warnings);
        let warnings = plan.warnings.clone();
        Ok(((recipe, take(variant, plan)), warnings))
    })?;
    let merge = |(variant, (recipe, of_plan))| PlannedMerge { variant, recipe, of_plan };
    let merges = variants.into_iter().zip(planned).map(merge).collect();
    Ok(Planned { request, merges, warnings: Finding::all(warnings) })
}

fn plan_one(
    config: &ApiConfig,
    access: &Access,
    request: &MergeRequest,
    variant: &Variant,
) -> Result<(String, StagedPlan), Refusal> {
    let stages = variant.stages(request.lenient)?;
    let plan = engine::open_and_plan_stages(stages, access, &config.settings)?;
    Ok((variant.text()?, plan))
}

fn check_outputs(roots: &OutputRoots, request: &MergeRequest, variants: &[Variant]) -> Result<()> {
    let outputs = variants.iter().filter_map(|variant| output_of(request, variant));
    let refused: Vec<_> = outputs.filter_map(|path| output_refused(roots, &path)).collect();
    let Some((code, first)) = refused.first() else { return Ok(()) };
    let detail = match refused.len() {
        1 => first.detail.clone(),
        many => format!("{many} outputs cannot be written; `errors` has each"),
    };
    Err(Problem::new(*code, detail).with_errors(refused.into_iter().map(|(_, finding)| finding).collect()))
}

fn output_refused(roots: &OutputRoots, path: &str) -> Option<(Code, Finding)> {
    match roots.resolve(path) {
        Err(detail) => Some((Code::InvalidOutput, Finding::at("/output", "invalid_output", detail))),
        Ok(target) if target.symlink_metadata().is_ok() => {
            let detail = format!("output {path:?} exists already; nothing is overwritten, so name another");
            Some((Code::OutputExists, Finding::at("/output", "output_exists", detail)))
        }
        Ok(_) => None,
    }
}
