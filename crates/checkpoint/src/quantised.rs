//! Quantised checkpoints, told by their config or by the names of their tensors, and refused by name: a merge of packed
//! integers would be noise.

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde_json::{Map, Value};

use crate::{CheckpointError, TensorPlace};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Gptq,
    Awq,
    GptqOrAwq,
    BitsAndBytes4,
    BitsAndBytes8,
    BitsAndBytes,
    Fp8,
    CompressedTensors,
    Mxfp4,
    Mlx,
    Hqq,
    Eetq,
    Quanto,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Scheme::Gptq => "GPTQ",
            Scheme::Awq => "AWQ",
            Scheme::GptqOrAwq => "GPTQ or AWQ",
            Scheme::BitsAndBytes4 => "bitsandbytes, 4 bit",
            Scheme::BitsAndBytes8 => "bitsandbytes, 8 bit",
            Scheme::BitsAndBytes => "bitsandbytes",
            Scheme::Fp8 => "FP8",
            Scheme::CompressedTensors => "compressed-tensors",
            Scheme::Mxfp4 => "MXFP4",
            Scheme::Mlx => "MLX",
            Scheme::Hqq => "HQQ",
            Scheme::Eetq => "EETQ",
            Scheme::Quanto => "quanto",
        }
    }

    /// What to merge instead.
    fn instead(self) -> &'static str {
        match self {
            Scheme::Fp8 | Scheme::Mxfp4 => {
                "merge its 16-bit version; where there is none, load it with transformers, dequantize it to bfloat16 and save that"
            }
            Scheme::BitsAndBytes4 | Scheme::BitsAndBytes8 | Scheme::BitsAndBytes => {
                "merge the 16-bit or 32-bit model that it was made from, or load it with transformers, call `dequantize()` and save that"
            }
            _ => "merge the 16-bit or 32-bit model that it was made from, and quantise the result",
        }
    }
}

/// Refuses a config that says its weights are quantised.
pub(crate) fn refuse_config(config: &Value) -> Result<(), CheckpointError> {
    let settings = ["/quantization_config", "/text_config/quantization_config", "/compression_config"];
    let settings = settings.iter().find_map(|pointer| config.pointer(pointer)?.as_object().filter(|s| !s.is_empty()));
    if let Some(settings) = settings {
        let method = settings.get("quant_method").and_then(Value::as_str);
        return Err(match method.map(|m| (m, scheme_of(m, settings))) {
            Some((_, Some(scheme))) => refusal(scheme, "its config.json says so"),
            Some((method, None)) => refusal_of(method, Scheme::Gptq.instead(), "its config.json says so"),
            None if settings.keys().any(|key| key.contains("load_in_4bit") || key.contains("load_in_8bit")) => {
                let bits = if settings.get("load_in_8bit") == Some(&Value::Bool(true)) { "8" } else { "4" };
                let method = format!("bitsandbytes, {bits} bit");
                refusal_of(&method, Scheme::Gptq.instead(), "its config.json says so")
            }
            None => refusal_of("a method it does not name", Scheme::Gptq.instead(), "its config.json says so"),
        });
    }
    match config.get("quantization") {
        Some(mlx) if mlx.get("bits").is_some() => Err(refusal(Scheme::Mlx, "its config.json says so")),
        _ => Ok(()),
    }
}

fn scheme_of(method: &str, settings: &Map<String, Value>) -> Option<Scheme> {
    let says = |key: &str| settings.get(key).and_then(Value::as_bool) == Some(true);
    Some(match method.to_ascii_lowercase().replace('_', "-").as_str() {
        "gptq" | "marlin" | "gptq-marlin" => Scheme::Gptq,
        "awq" | "awq-marlin" => Scheme::Awq,
        "bitsandbytes" | "bitsandbytes-4bit" | "bitsandbytes-8bit" => {
            match (says("load_in_4bit"), says("load_in_8bit")) {
                (true, false) => Scheme::BitsAndBytes4,
                (false, true) => Scheme::BitsAndBytes8,
                _ => Scheme::BitsAndBytes,
            }
        }
        "fp8" | "fbgemm-fp8" | "finegrained-fp8" => Scheme::Fp8,
        "compressed-tensors" => Scheme::CompressedTensors,
        "mxfp4" => Scheme::Mxfp4,
        "hqq" => Scheme::Hqq,
        "eetq" => Scheme::Eetq,
        "quanto" => Scheme::Quanto,
        _ => return None,
    })
}

/// Refuses tensors that only a quantised checkpoint has, whatever its config says.
pub(crate) fn refuse_tensors(tensors: &BTreeMap<String, TensorPlace>) -> Result<(), CheckpointError> {
    match tensors.keys().find_map(|name| Some((name, told_by(name, tensors)?))) {
        Some((name, scheme)) => Err(refusal(scheme, &format!("it has the tensor {name:?}"))),
        None => Ok(()),
    }
}

fn told_by(name: &str, tensors: &BTreeMap<String, TensorPlace>) -> Option<Scheme> {
    let (stem, last) = name.rsplit_once('.').unwrap_or(("", name));
    let beside = |suffix: &str| tensors.get(&format!("{stem}.{suffix}"));
    let dtype = tensors.get(name)?.info.dtype;
    Some(match last {
        "qweight" if beside("scales").is_some() => gptq_or_awq(name, tensors),
        "absmax" | "quant_map" | "nested_absmax" if stem.ends_with(".weight") => Scheme::BitsAndBytes4,
        last if last.starts_with("bitsandbytes__") => Scheme::BitsAndBytes4,
        "SCB" if beside("weight").is_some() => Scheme::BitsAndBytes8,
        "weight_packed" if beside("weight_scale").is_some() => Scheme::CompressedTensors,
        "weight_scale_inv" => Scheme::Fp8,
        _ if is_fp8(dtype) => Scheme::Fp8,
        "W_q" => Scheme::Hqq,
        "weight_scales" if is(beside("weight"), Dtype::I8) => Scheme::Eetq,
        "_data" if stem.ends_with(".weight") && beside("_scale").is_some() => Scheme::Quanto,
        "biases" if beside("scales").is_some() && is(beside("weight"), Dtype::U32) => Scheme::Mlx,
        last if last.ends_with("_blocks") && dtype == Dtype::U8 => {
            beside(&format!("{}_scales", last.strip_suffix("_blocks")?)).map(|_| Scheme::Mxfp4)?
        }
        "weight_scale" if is(beside("weight"), Dtype::I8) => Scheme::CompressedTensors,
        _ => return None,
    })
}

fn is(place: Option<&TensorPlace>, dtype: Dtype) -> bool {
    place.is_some_and(|place| place.info.dtype == dtype)
}

fn is_fp8(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::F8_E8M0 | Dtype::F8_E4M3FNUZ | Dtype::F8_E5M2FNUZ)
}

/// Both pack 4-bit columns of zeros; GPTQ packs the weight along its rows, AWQ along its columns as its zeros.
fn gptq_or_awq(qweight: &str, tensors: &BTreeMap<String, TensorPlace>) -> Scheme {
    let stem = qweight.trim_end_matches("qweight");
    if tensors.contains_key(&format!("{stem}g_idx")) {
        return Scheme::Gptq;
    }
    let columns = |name: &str| tensors.get(name).and_then(|place| place.info.shape.last().copied());
    match (columns(qweight), columns(&format!("{stem}qzeros"))) {
        (Some(weight), Some(zeros)) if weight == zeros => Scheme::Awq,
        (Some(_), Some(_)) => Scheme::Gptq,
        _ => Scheme::GptqOrAwq,
    }
}

fn refusal(scheme: Scheme, told: &str) -> CheckpointError {
    refusal_of(scheme.name(), scheme.instead(), told)
}

fn refusal_of(method: &str, instead: &str, told: &str) -> CheckpointError {
    CheckpointError::Unsupported(format!("is quantised ({method}), for {told}; {instead}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Access, Checkpoint, ShardFile, layout_shards};

    type Tensors<'a> = &'a [(&'a str, Dtype, &'a [u64])];

    /// What opening a checkpoint of these tensors, all of zeros, says.
    fn open(config: &Value, tensors: Tensors<'_>) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let tensors = tensors.iter().map(|(name, dtype, shape)| ((*name).to_owned(), *dtype, shape.to_vec()));
        ShardFile::create(dir.path(), &layout_shards(tensors.collect(), 1 << 20)[0]).unwrap();
        Checkpoint::open(dir.path(), &Access::Anywhere).map(drop).map_err(|error| error.to_string())
    }

    const PLAIN: Tensors<'_> = &[("q.weight", Dtype::F32, &[4, 4])];

    #[test]
    fn a_config_names_its_scheme() {
        let by_method = |method: &str| json!({"quantization_config": {"quant_method": method}});
        let cases = [
            (by_method("gptq"), "(GPTQ)"),
            (by_method("awq"), "(AWQ)"),
            (by_method("bitsandbytes"), "(bitsandbytes)"),
            (
                json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}),
                "(bitsandbytes, 4 bit)",
            ),
            (
                json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true, "load_in_4bit": false}}),
                "(bitsandbytes, 8 bit)",
            ),
            (by_method("fp8"), "(FP8)"),
            (by_method("fbgemm_fp8"), "(FP8)"),
            (by_method("compressed-tensors"), "(compressed-tensors)"),
            (by_method("mxfp4"), "(MXFP4)"),
            (by_method("hqq"), "(HQQ)"),
            (by_method("eetq"), "(EETQ)"),
            (by_method("quanto"), "(quanto)"),
            (by_method("novel"), "(novel)"),
            (json!({"quantization_config": {"bits": 4}}), "(a method it does not name)"),
            (json!({"text_config": {"quantization_config": {"quant_method": "awq"}}}), "(AWQ)"),
            (json!({"quantization": {"group_size": 64, "bits": 4}}), "(MLX)"),
        ];
        for (config, expected) in cases {
            let error = open(&config, PLAIN).unwrap_err();
            assert!(error.contains(expected) && error.contains("config.json says so; "), "{config}: {error}");
        }
        for config in [
            json!({}),
            json!({"quantization_config": null}),
            json!({"quantization_config": {}}),
            json!({"quantization": null}),
        ] {
            assert_eq!(open(&config, PLAIN), Ok(()), "{config}");
        }
    }

    #[test]
    fn tensors_name_their_scheme_where_the_config_does_not() {
        use Dtype::{F16, F32, I8, I32, I64, U8, U32};
        let cases: &[(Tensors<'_>, &str)] = &[
            (&[("q.qweight", I32, &[4, 32]), ("q.qzeros", I32, &[1, 4]), ("q.scales", F16, &[1, 32])], "(GPTQ)"),
            (&[("q.qweight", I32, &[4, 32]), ("q.g_idx", I32, &[32]), ("q.scales", F16, &[1, 32])], "(GPTQ)"),
            (&[("q.qweight", I32, &[32, 4]), ("q.qzeros", I32, &[1, 4]), ("q.scales", F16, &[1, 32])], "(AWQ)"),
            (&[("q.qweight", I32, &[32, 4]), ("q.scales", F16, &[1, 32])], "(GPTQ or AWQ)"),
            (&[("q.weight", U8, &[8, 1]), ("q.weight.absmax", F32, &[1])], "(bitsandbytes, 4 bit)"),
            (&[("q.weight", U8, &[8]), ("q.weight.quant_state.bitsandbytes__nf4", U8, &[9])], "(bitsandbytes, 4 bit)"),
            (&[("q.weight", I8, &[4, 4]), ("q.SCB", F32, &[4])], "(bitsandbytes, 8 bit)"),
            (&[("q.weight", Dtype::F8_E4M3, &[4, 4]), ("q.weight_scale_inv", F32, &[1, 1])], "(FP8)"),
            (&[("q.weight", Dtype::F8_E5M2, &[4, 4])], "(FP8)"),
            (
                &[("q.weight_packed", I32, &[4, 1]), ("q.weight_scale", F16, &[4]), ("q.weight_shape", I64, &[2])],
                "(compressed-tensors)",
            ),
            (&[("q.weight", I8, &[4, 4]), ("q.weight_scale", F16, &[4])], "(compressed-tensors)"),
            (&[("e.up_blocks", U8, &[4, 16]), ("e.up_scales", U8, &[4])], "(MXFP4)"),
            (&[("q.weight", U32, &[4, 4]), ("q.scales", F16, &[4, 1]), ("q.biases", F16, &[4, 1])], "(MLX)"),
            (&[("q.W_q", U8, &[4, 4]), ("q.scale", F16, &[4])], "(HQQ)"),
            (&[("q.weight", I8, &[4, 4]), ("q.weight_scales", F16, &[4])], "(EETQ)"),
            (&[("q.weight._data", I8, &[4, 4]), ("q.weight._scale", F16, &[4])], "(quanto)"),
        ];
        for (tensors, expected) in cases {
            let error = open(&json!({}), tensors).unwrap_err();
            assert!(error.contains(expected) && error.contains("it has the tensor"), "{expected}: {error}");
        }
    }

    #[test]
    fn names_that_only_look_alike_are_no_quantisation() {
        use Dtype::F32;
        let tensors: Tensors<'_> = &[
            ("q.biases", F32, &[4]),
            ("q.scales", F32, &[4]),
            ("q.weight", F32, &[4, 4]),
            ("q.weight_scale", F32, &[4]),
            ("absmax", F32, &[1]),
            ("block.down_blocks", F32, &[1]),
            ("position_ids", Dtype::I64, &[4]),
        ];
        assert_eq!(open(&json!({}), tensors), Ok(()));
    }
}
