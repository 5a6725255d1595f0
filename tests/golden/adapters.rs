//! A model with its adapter against mergekit, which merges the adapter first and writes that model in its own dtype.

use std::collections::BTreeMap;

use testkit::{Case, Tensor, golden_dirs, read_checkpoint};

const SCALE: f64 = 8.0 / 4.0;

/// W + s B A in f64; a tensor without factors is as it is.
fn adapted(name: &str, base: &Tensor, adapter: &BTreeMap<String, Tensor>) -> Vec<f64> {
    let module = name.strip_suffix(".weight").unwrap();
    let factor = |which: &str| adapter.get(&format!("base_model.model.{module}.{which}.weight"));
    let (Some(a), Some(b)) = (factor("lora_A"), factor("lora_B")) else { return base.values.clone() };
    let (rank, columns) = (a.shape[0], a.shape[1]);
    let product = |e: usize| -> f64 {
        let (row, column) = (e / columns, e % columns);
        (0..rank).map(|k| b.values[row * rank + k] * a.values[k * columns + column]).sum()
    };
    base.values.iter().enumerate().map(|(e, w)| w + SCALE * product(e)).collect()
}

/// By way of f32, as mergekit computes.
fn bf16(value: f64) -> f64 {
    half::bf16::from_f32(value as f32).to_f64()
}

/// Half of a model with its adapter and half of another. We round the sum once. mergekit rounds the adapted model to
/// bf16 before, which is checked to be the whole difference.
#[test]
fn an_adapter_is_applied_as_mergekit_does_but_for_its_rounding_in_between() {
    let mut compared = 0;
    for root in golden_dirs() {
        for case in Case::all(&root).iter().filter(|case| case.name == "lora-linear") {
            let dir = tempfile::tempdir().unwrap();
            crate::merge(case, dir.path());
            let (ours, golden) = (read_checkpoint(dir.path()), read_checkpoint(&case.dir.join("out")));
            let model = |name: &str| read_checkpoint(&case.root.join("models/llama-bf16").join(name));
            let (base, adapter, other) = (model("base"), model("lora_a"), model("ft_a"));
            assert_eq!(ours.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
            for (name, golden) in &golden {
                let with = adapted(name, &base[name], &adapter);
                for (e, (ours, golden)) in ours[name].values.iter().zip(&golden.values).enumerate() {
                    let other = other[name].values[e];
                    // f32 may turn a rounding that f64 sees just beside the middle
                    let unsure = 4.0 * 2f64.powi(-24) * with[e].abs().max(base[name].values[e].abs());
                    let twice = [with[e] - unsure, with[e] + unsure].map(|with| bf16(0.5 * bf16(with) + 0.5 * other));
                    assert!(twice.contains(golden), "{name} [{e}]: mergekit has {golden}, expected of {twice:?}");
                    let truth = 0.5 * with[e] + 0.5 * other;
                    let error = 8.0 * 2f64.powi(-24) * (with[e].abs() + other.abs());
                    assert!((ours - truth).abs() <= 0.5 * crate::ulp(checkpoint::Dtype::BF16, truth) + error);
                    compared += usize::from(with[e] != base[name].values[e]);
                }
            }
        }
    }
    assert!(compared > 1000, "only {compared} elements were adapted");
}
