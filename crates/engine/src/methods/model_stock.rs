//! Model Stock: how far to trust the mean of fine-tunes follows from the angle between them.
//! `c = mean cosine of the task vectors`, `t = N c / (1 + (N-1) c)`, `out = t mean(x_i) + (1-t) base`.
//! Jang et al. 2024, arXiv:2403.19522.

use std::sync::Arc;

use super::{About, Base, Cost, Inputs, Merge, Method, Parameter, TaskParameters, TooFew};
use crate::kernel::{Kernel, TaskVector, TaskVectorSum, VectorTaskSum};
use crate::statistic::{Along, Gram, Reduced, Statistic, Vectors};

pub struct ModelStock;

impl Method for ModelStock {
    fn about(&self) -> About {
        About {
            name: "model_stock",
            title: "Model Stock",
            formula: "c = mean over pairs of cos(x_i - base, x_j - base); t = N c / (1 + (N-1) c); out = base + t (mean of x_i - base)",
            source: "https://arxiv.org/abs/2403.19522",
            advice: "two or three fine-tunes of one base on the same task; no coefficient to tune",
            cost: Cost::TwoPasses,
            inputs: Inputs { base: Base::Required, min: 3, max: None },
            parameters: vec![Parameter::boolean(
                "filter_wise",
                false,
                "an angle for each row instead of one for the tensor",
            )],
        }
    }

    fn when_too_few(&self) -> TooFew {
        TooFew::CopyTheBaseOrLeaveOut
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        let base = parameters.base.ok_or("model_stock needs a base")?;
        let (rows, columns) = parameters.rows();
        let vectors = parameters.boolean("filter_wise").then_some(Vectors { rows, columns, along: Along::Rows });
        Ok(Box::new(ModelStockMerge { base, others: parameters.others(), inputs: parameters.inputs, vectors }))
    }
}

#[derive(Debug)]
struct ModelStockMerge {
    base: usize,
    others: Vec<usize>,
    inputs: usize,
    vectors: Option<Vectors>,
}

impl Merge for ModelStockMerge {
    fn statistic(&self, known: &[Reduced]) -> Option<Statistic> {
        let origin = Some(self.base);
        known.is_empty().then_some(match self.vectors {
            None => Statistic::Gram { origin },
            Some(vectors) => Statistic::VectorGram { origin, vectors },
        })
    }

    fn kernel(&self, known: &[Reduced], _: u64) -> Result<Box<dyn Kernel>, String> {
        let Some(vectors) = self.vectors else {
            let coefficient = self.coefficient(known[0].gram());
            let vectors = self.others.iter().map(|i| TaskVector::plain(*i, self.base, coefficient)).collect();
            return Ok(Box::new(TaskVectorSum { base: self.base, vectors, divisor: None, scale: 1.0 }));
        };
        let each: Arc<[f32]> = known[0].grams().iter().map(|gram| self.coefficient(gram)).collect();
        let coefficients = (0..self.inputs).map(|i| (i != self.base).then(|| each.clone())).collect();
        Ok(Box::new(VectorTaskSum { base: self.base, vectors, coefficients }))
    }
}

impl ModelStockMerge {
    /// What each task vector is multiplied with: t over their number.
    fn coefficient(&self, gram: &Gram) -> f32 {
        let n = self.others.len() as f64;
        let cosine = self.mean_cosine(gram);
        let divisor = 1.0 + (n - 1.0) * cosine;
        let t = if divisor.abs() < 1e-6 { 0.0 } else { n * cosine / divisor };
        (t / n) as f32
    }

    fn mean_cosine(&self, gram: &Gram) -> f64 {
        let pairs =
            self.others.iter().enumerate().flat_map(|(k, i)| self.others[k + 1..].iter().map(move |j| (*i, *j)));
        let (sum, count) = pairs.map(|(i, j)| cosine(gram, i, j)).fold((0.0, 0.0), |(sum, n), c| (sum + c, n + 1.0));
        sum / f64::max(count, 1.0)
    }
}

/// A vector that is zero stands at no angle to any other.
fn cosine(gram: &Gram, i: usize, j: usize) -> f64 {
    let lengths = gram.norm(i) * gram.norm(j);
    if lengths > 0.0 { (gram.dot(i, j) / lengths).clamp(-1.0, 1.0) } else { 0.0 }
}
