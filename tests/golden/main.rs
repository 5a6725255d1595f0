//! Our outputs against recorded outputs of mergekit 0.1.5 and against the naive f64 reference.
//!
//! The subset in this folder goes with the repository; `AMALGAM_GOLDEN` names a folder with the whole set.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

mod adapters;
mod vocabulary;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use checkpoint::{Access, Dtype};
use engine::methods::{Resolved, TaskParameters};
use engine::philox::Stream;
use engine::{Observer, Plan, Settings, Sources, TensorTask};
use recipe::{Recipe, Refusal};
use testkit::reference::{self, Merged, Task};
use testkit::{Case, Tensor, golden_dirs, read_checkpoint};

/// Recipes name models relative to the folder of the golden set.
fn absolute(recipe: &str, root: &Path) -> String {
    recipe.replace("models/", &format!("{}/models/", root.display()))
}

fn plan(case: &Case) -> Result<(Plan, Sources, String), Refusal> {
    let mut text = absolute(&case.recipe, &case.root);
    if WRITES_F32.contains(&case.name.as_str()) {
        text += "out_dtype: float32\n";
    }
    if case.meta["flags"]["unsafe_truncate_embeddings"] == true {
        text += "options: {unsafe_truncate_embeddings: true}\n";
    }
    let recipe = Recipe::parse(&text, false)?;
    // as `check` and submit do: what needs no model first
    engine::check(&recipe)?;
    let sources = Sources::open(&recipe, &Access::Anywhere)?;
    let shard_bytes = case.meta["flags"]["out_shard_size"].as_u64().unwrap_or(5_000_000_000);
    let plan = engine::plan(&recipe, &sources, &Settings { shard_bytes, threads: 2, ..Settings::default() })?;
    Ok((plan, sources, text))
}

fn merge(case: &Case, dir: &Path) -> Plan {
    let (plan, sources, text) = plan(case).unwrap_or_else(|refusal| panic!("{}: {refusal}", case.name));
    let observer = Observer { on_progress: &|_| {}, cancel: &AtomicBool::new(false) };
    engine::execute(&plan, &sources, &text, dir, &observer).unwrap();
    plan
}

/// mergekit writes float32 here whatever the inputs' dtype, where we write the inputs' unless asked.
const WRITES_F32: &[&str] = &["arcee_fusion", "ramplus_tl"];

/// mergekit takes norms, cosines, factors and thresholds of these in the inputs' dtype, so that in 16 bits its own
/// rounding has no bound that the values give; what holds then is that we are nearer to the truth.
const COEFFICIENTS_IN_DTYPE: &[&str] = &["nuslerp", "multislerp", "karcher", "model_stock", "sce", "arcee_fusion"];

fn is_ours(case: &Case) -> bool {
    let known = engine::methods::METHODS
        .iter()
        .any(|m| case.recipe.lines().any(|l| l == format!("merge_method: {}", m.about().name)));
    // merged vocabularies are compared by token, and adapters have a comparison of their own
    let by_token = case.name.starts_with("vocab-") && case.name != "vocab-truncate";
    known && !by_token && !case.name.starts_with("lora-")
}

fn accepted(case: &Case) -> bool {
    case.kind() != "error" && is_ours(case) && (!case.name.starts_with("quirk-") || case.name == "quirk-empty-slices")
}

/// The f64 reference for one output tensor, by the parameters of its task.
fn expected(plan: &Plan, task: &TensorTask, x: &[&Tensor]) -> Merged {
    let x: Vec<&[f64]> = x.iter().map(|t| t.values.as_slice()).collect();
    let draws = |input: usize, e: u64| f64::from(Stream::new(plan.seed, &task.name, input as u32).uniform(e));
    let parameters = serde_json::to_value(&task.parameters).unwrap();
    reference::merge(&Task { method: plan.about.name, parameters: &parameters, x: &x, draws: &draws })
}

/// Elements whose delta, rounded to the inputs' dtype as mergekit rounds it, ties with the magnitude of a cut: which of
/// them mergekit keeps is decided by its sort.
fn peer_ties(p: &TaskParameters, x: &[&Tensor]) -> Vec<bool> {
    let base = p.base.expect("task vectors have a base");
    let mut ties = vec![false; x[base].values.len()];
    for (i, tensor) in x.iter().enumerate().filter(|(i, _)| *i != base) {
        let Some(Resolved::Number(density)) = p.each[i].get("density") else { continue };
        let delta: Vec<f64> =
            tensor.values.iter().zip(&x[base].values).map(|(a, b)| round(tensor.dtype, a - b)).collect();
        let (_, tied) = match p.each[i].get("gamma") {
            Some(Resolved::Number(gamma)) => reference::outliers(&delta, *density, *gamma),
            _ => reference::magnitude(&delta, *density),
        };
        ties.iter_mut().zip(tied).for_each(|(t, tied)| *t |= tied);
    }
    ties
}

fn round(dtype: Dtype, value: f64) -> f64 {
    match dtype {
        Dtype::BF16 => half::bf16::from_f64(value).to_f64(),
        Dtype::F16 => half::f16::from_f64(value).to_f64(),
        _ => f64::from(value as f32),
    }
}

/// One step of a dtype around a value, from below.
fn ulp(dtype: Dtype, value: f64) -> f64 {
    let (digits, least) = match dtype {
        Dtype::BF16 => (8, -133),
        Dtype::F16 => (11, -24),
        _ => (24, -149),
    };
    let exponent = if value == 0.0 { i32::MIN } else { value.abs().log2().floor() as i32 - (digits - 1) };
    2f64.powi(exponent.max(least))
}

fn distance(a: &[f64], b: &[f64], skip: &[bool]) -> f64 {
    a.iter().zip(b).zip(skip).filter(|(_, skip)| !**skip).map(|((a, b), _)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

fn norm(a: &[f64]) -> f64 {
    a.iter().map(|a| a * a).sum::<f64>().sqrt()
}

struct Compared<'a> {
    case: &'a Case,
    method: &'a str,
    /// In which mergekit computed, unless the recipe names another.
    arithmetic: Dtype,
    name: &'a str,
    ours: &'a Tensor,
    golden: &'a Tensor,
    truth: Merged,
    /// Largest magnitude that took part in an element, for the f32 error bound.
    scale: Vec<f64>,
    ties: Vec<bool>,
    inputs: usize,
}

impl Compared<'_> {
    /// Elements whose outcome no reference can decide: equal magnitudes at a cut, votes within `margin` of cancelling.
    fn undecided(&self, margin: f64) -> Vec<bool> {
        self.truth.ties.iter().zip(&self.truth.margins).map(|(tie, m)| *tie || *m < margin).collect()
    }

    /// Each element is the truth rounded once: within half a step of the output dtype, and the error of f32 arithmetic,
    /// which is a few roundings of terms no larger than what took part.
    fn rounded_once(&self) {
        let undecided = self.undecided(2f64.powi(-20));
        let roundings = 4.0 * (self.inputs as f64 + 2.0);
        for (e, (ours, truth)) in self.ours.values.iter().zip(&self.truth.values).enumerate() {
            let allowed = 0.5 * ulp(self.ours.dtype, truth.abs().max(ours.abs()))
                + (roundings * 2f64.powi(-24) + self.truth.unsure) * self.scale[e];
            let off = (ours - truth).abs();
            assert!(
                off <= allowed || undecided[e],
                "{} {} [{e}]: {ours} is {off:e} from {truth}, allowed {allowed:e}",
                self.case.name,
                self.name
            );
        }
    }

    /// Not further from the truth than mergekit, up to what f32 arithmetic may turn at a rounding boundary.
    fn not_further_than_the_peer(&self) {
        let none = vec![false; self.truth.values.len()];
        let ours = distance(&self.ours.values, &self.truth.values, &self.undecided(2f64.powi(-20)));
        let peer = distance(&self.golden.values, &self.truth.values, &none);
        let slack = 2f64.powi(-12) * peer + 2f64.powi(-24) * norm(&self.truth.values);
        assert!(ours <= peer + slack, "{} {}: {ours:e} from the truth, mergekit {peer:e}", self.case.name, self.name);
    }

    /// Near what mergekit wrote: in f32 by the agreed 2e-7, else by the dtype's own precision.
    fn near_the_peer(&self) {
        if self.arithmetic != Dtype::F32 && COEFFICIENTS_IN_DTYPE.contains(&self.method) {
            return;
        }
        // mergekit rounds delta, weight, product and sum in the inputs' dtype before it votes
        let margin = 4.0 * ulp(self.arithmetic, 1.0) / 2.0;
        let skip: Vec<bool> = self.ties.iter().zip(self.undecided(margin)).map(|(a, b)| *a || b).collect();
        let off = distance(&self.ours.values, &self.golden.values, &skip);
        let relative = off / norm(&self.golden.values).max(f64::MIN_POSITIVE);
        let allowed = match self.arithmetic {
            Dtype::BF16 => 2f64.powi(-8),
            Dtype::F16 => 2f64.powi(-11),
            _ => 2e-7,
        };
        // the peer's own f32 error comes on top: an iteration in f32 strays further than that
        let peer =
            distance(&self.golden.values, &self.truth.values, &skip) / norm(&self.golden.values).max(f64::MIN_POSITIVE);
        let allowed = f64::max(allowed, peer + 2f64.powi(-24));
        assert!(
            off == 0.0 || relative <= allowed,
            "{} {}: {relative:e} from mergekit, allowed {allowed:e}",
            self.case.name,
            self.name
        );
    }
}

#[test]
fn outputs_agree_with_mergekit_and_are_nearer_to_the_truth() {
    let mut merged = 0;
    for root in golden_dirs() {
        for case in Case::all(&root).iter().filter(|case| accepted(case)) {
            let dir = tempfile::tempdir().unwrap();
            let plan = merge(case, dir.path());
            compare(case, &plan, dir.path());
            merged += 1;
        }
    }
    assert!(merged >= 15, "only {merged} cases were merged");
}

fn compare(case: &Case, plan: &Plan, dir: &Path) {
    let ours = read_checkpoint(dir);
    let golden = read_checkpoint(&case.dir.join("out"));
    let listed =
        |m: &BTreeMap<String, Tensor>| m.iter().map(|(n, t)| (n.clone(), t.dtype, t.shape.clone())).collect::<Vec<_>>();
    assert_eq!(listed(&ours), listed(&golden), "{}", case.name);
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("manifest.json")).unwrap()).unwrap();
    let inputs: Vec<BTreeMap<String, Tensor>> = manifest["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| read_checkpoint(Path::new(i["model"].as_str().unwrap())))
        .collect();
    for task in &plan.tasks {
        let (ours, golden) = (&ours[&task.name], &golden[&task.name]);
        let x: Vec<Tensor> = task.inputs.iter().map(|i| first_rows(&inputs[i.source][&i.name], &ours.shape)).collect();
        let x: Vec<&Tensor> = x.iter().collect();
        if ours.values.is_empty() && !ours.bytes.is_empty() {
            assert_eq!(ours.bytes, golden.bytes, "{} {}", case.name, task.name);
            continue;
        }
        let weights = task.parameters.each.iter().flat_map(|e| e.values()).chain(task.parameters.shared.values());
        let largest_factor =
            weights.filter_map(|v| if let Resolved::Number(n) = v { Some(n.abs()) } else { None }).fold(1.0, f64::max);
        let scale = (0..ours.values.len())
            .map(|e| largest_factor * largest_factor * x.iter().map(|t| t.values[e].abs()).sum::<f64>())
            .collect();
        let ties = if task.parameters.base.is_some() && task.parameters.each.iter().any(|e| e.contains_key("density")) {
            peer_ties(&task.parameters, &x)
        } else {
            vec![false; ours.values.len()]
        };
        let truth = expected(plan, task, &x);
        let arithmetic = if WRITES_F32.contains(&case.name.as_str()) { x[0].dtype } else { ours.dtype };
        let method = plan.about.name;
        let compared =
            Compared { case, method, arithmetic, name: &task.name, ours, golden, truth, scale, ties, inputs: x.len() };
        compared.rounded_once();
        if case.kind() == "exact" {
            compared.not_further_than_the_peer();
            compared.near_the_peer();
        }
    }
}

/// What a merge reads of a tensor that it cuts to fewer rows.
fn first_rows(tensor: &Tensor, shape: &[usize]) -> Tensor {
    let mut cut = tensor.clone();
    cut.values.truncate(shape.iter().product());
    cut
}

#[test]
fn linear_and_passthrough_have_every_bit_of_mergekit() {
    for root in golden_dirs() {
        for case in Case::all(&root).iter().filter(|case| accepted(case)) {
            let exact = ["merge_method: linear", "merge_method: passthrough"].iter().any(|m| case.recipe.contains(m));
            if !exact {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            merge(case, dir.path());
            let golden = read_checkpoint(&case.dir.join("out"));
            for (name, ours) in read_checkpoint(dir.path()) {
                assert!(ours.bytes == golden[&name].bytes, "{} {name}", case.name);
            }
        }
    }
}

#[test]
fn what_mergekit_refuses_or_should_refuse_is_refused_with_the_mend() {
    let mut seen = BTreeMap::new();
    for root in golden_dirs() {
        for case in Case::all(&root) {
            let wanted =
                case.kind() == "error" || (case.name.starts_with("quirk-") && case.name != "quirk-empty-slices");
            if !wanted {
                continue;
            }
            let refusal = plan(&case).err().unwrap_or_else(|| panic!("{} is accepted", case.name));
            let text = refusal.to_string().replace(&*root.to_string_lossy(), "GOLDEN");
            assert!(refusal.problems.iter().all(|p| p.line.is_some()), "{}: {text}", case.name);
            seen.insert(case.name.clone(), text);
        }
    }
    let told: String = seen.iter().map(|(name, text)| format!("{name}\n  {}\n", text.replace('\n', "\n  "))).collect();
    insta::assert_snapshot!(told);
}
