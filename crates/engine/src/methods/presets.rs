//! Task arithmetic under the names of the papers that use it with one coefficient.

use super::{About, Base, Cost, Default, Inputs, Merge, Method, Parameter, Scope, TaskParameters};
use crate::kernel::{Kernel, TaskVector, TaskVectorSum};
use crate::statistic::Reduced;

pub struct Preset {
    name: &'static str,
    title: &'static str,
    formula: &'static str,
    source: &'static str,
    advice: &'static str,
    alpha: f64,
    about_alpha: &'static str,
    /// What a task vector is multiplied with.
    coefficient: fn(f64) -> f64,
    models_max: Option<usize>,
}

pub static WISE_FT: Preset = Preset {
    name: "wise_ft",
    title: "WiSE-FT (task arithmetic with one model)",
    formula: "out = base + alpha (x - base)",
    source: "https://arxiv.org/abs/2109.01903",
    advice: "one fine-tune that forgot too much: between it and its base",
    alpha: 0.5,
    about_alpha: "0 gives the base, 1 the fine-tune",
    coefficient: |alpha| alpha,
    models_max: Some(2),
};

pub static EXPO: Preset = Preset {
    name: "expo",
    title: "ExPO (task arithmetic beyond the model)",
    formula: "out = x + alpha (x - base), base the model before alignment",
    source: "https://arxiv.org/abs/2404.16792",
    advice: "a preference-tuned model, further in the direction that tuning took; base_model is the SFT model",
    alpha: 0.3,
    about_alpha: "how far beyond the model, 0.3 to 0.5",
    coefficient: |alpha| 1.0 + alpha,
    models_max: Some(2),
};

pub static CHAT_VECTOR: Preset = Preset {
    name: "chat_vector",
    title: "Chat vector (task arithmetic with whole task vectors)",
    formula: "out = base + alpha (sum of x_i - base)",
    source: "https://arxiv.org/abs/2310.04799",
    advice: "a model trained on in another language, and a chat model of the same base: gives the first the manners of the second",
    alpha: 1.0,
    about_alpha: "factor of every task vector",
    coefficient: |alpha| alpha,
    models_max: None,
};

pub static NEGATION: Preset = Preset {
    name: "negation",
    title: "Task negation (task arithmetic with a minus)",
    formula: "out = base - alpha (sum of x_i - base)",
    source: "https://arxiv.org/abs/2212.04089",
    advice: "makes the base worse at what the models learned, as at toxic text",
    alpha: 1.0,
    about_alpha: "how much of each task vector is taken away",
    coefficient: |alpha| -alpha,
    models_max: None,
};

impl Method for Preset {
    fn about(&self) -> About {
        About {
            name: self.name,
            title: self.title,
            formula: self.formula,
            source: self.source,
            advice: self.advice,
            cost: Cost::Elementwise,
            inputs: Inputs { base: Base::Required, min: 2, max: self.models_max },
            parameters: vec![Parameter::number(
                "alpha",
                Scope::EachInputButBase,
                Default::Number(self.alpha),
                self.about_alpha,
            )],
        }
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        let base = parameters.base.ok_or("task vectors need a base")?;
        let vector = |i: usize| {
            let alpha = parameters.number_of(i, "alpha").expect("declared for each input but the base");
            TaskVector::plain(i, base, (self.coefficient)(alpha) as f32)
        };
        Ok(Box::new(PresetMerge { base, vectors: parameters.others().into_iter().map(vector).collect() }))
    }
}

#[derive(Debug)]
struct PresetMerge {
    base: usize,
    vectors: Vec<TaskVector>,
}

impl Merge for PresetMerge {
    fn kernel(&self, _: &[Reduced], _: u64) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(TaskVectorSum { base: self.base, vectors: self.vectors.clone(), divisor: None, scale: 1.0 }))
    }
}
