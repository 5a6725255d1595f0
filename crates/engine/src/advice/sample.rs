//! A little of each model's tensor data, from the same places of the same tensors.

use std::collections::BTreeMap;

use checkpoint::{Dtype, TensorPlace, is_mergeable};
use recipe::ModelRef;

use crate::{Source, Sources, convert, layers};

/// Tensors looked into.
const TENSORS: usize = 6;

/// Elements read of each: with the above at most 48 KiB of a model.
const ELEMENTS: u64 = 2_048;

/// What was read of every model whose values are those of its files.
pub(super) struct Samples(Vec<Sample>);

pub(super) struct Sample {
    pub model: ModelRef,
    pub pointer: String,
    /// By tensor; what could not be read, or has another shape than the first model's, is absent.
    parts: BTreeMap<String, (Dtype, Vec<u8>)>,
}

impl Samples {
    pub fn read(models: &[(String, &ModelRef)], sources: &Sources) -> Samples {
        // an adapter changes values that the files do not show
        let opened: Vec<(&String, &Source)> = models
            .iter()
            .filter(|(_, model)| model.lora.is_none())
            .map(|(pointer, model)| (pointer, &sources.list[sources.index_of(model)]))
            .collect();
        let Some((_, first)) = opened.first().filter(|_| opened.len() > 1) else { return Samples(Vec::new()) };
        let places = places(first);
        Samples(opened.iter().map(|(pointer, source)| sample(pointer, source, &places)).collect())
    }

    /// The model that the others are compared with, and those.
    pub fn split(&self) -> Option<(&Sample, &[Sample])> {
        self.0.split_first()
    }

    pub fn all(&self) -> &[Sample] {
        &self.0
    }
}

impl Sample {
    /// The size of the difference from another model, relative to the other's size.
    pub fn distance(&self, from: &Sample) -> Option<f64> {
        let (mut difference, mut size) = (0.0, 0.0);
        for (name, part) in &self.parts {
            let Some(other) = from.parts.get(name) else { continue };
            for (a, b) in values(part).into_iter().zip(values(other)) {
                difference += f64::from(a - b).powi(2);
                size += f64::from(b).powi(2);
            }
        }
        (size > 0.0).then(|| (difference / size).sqrt())
    }

    /// Whether the same bits were read of both, and more than zeros.
    pub fn equals(&self, other: &Sample) -> bool {
        self.parts == other.parts && self.parts.values().any(|(_, bytes)| bytes.iter().any(|b| *b != 0))
    }
}

/// Matrices of the layers, evenly from all there are: fine-tuning changes norms too little to tell models apart.
fn places(first: &Source) -> Vec<(&String, &TensorPlace)> {
    let of_layers = |name: &str, place: &TensorPlace| {
        layers::split(name).is_some() && place.info.shape.len() >= 2 && is_mergeable(place.info.dtype)
    };
    let all: Vec<_> = first.checkpoint.tensors.iter().filter(|(name, place)| of_layers(name, place)).collect();
    let last = all.len().saturating_sub(1);
    let mut chosen: Vec<usize> = (0..TENSORS).map(|i| i * last / (TENSORS - 1)).filter(|i| *i < all.len()).collect();
    chosen.dedup();
    chosen.into_iter().map(|i| all[i]).collect()
}

fn sample(pointer: &str, source: &Source, places: &[(&String, &TensorPlace)]) -> Sample {
    let parts = places.iter().filter_map(|(name, like)| {
        let place = source.checkpoint.tensors.get(*name)?;
        let fits = place.info.shape == like.info.shape && is_mergeable(place.info.dtype);
        Some(((*name).clone(), (place.info.dtype, fits.then(|| read(source, place))??)))
    });
    Sample { model: source.model.clone(), pointer: pointer.to_owned(), parts: parts.collect() }
}

/// Elements from the middle of a tensor.
fn read(source: &Source, place: &TensorPlace) -> Option<Vec<u8>> {
    let width = place.info.dtype.bitsize() as u64 / 8;
    let elements = place.info.bytes / width;
    let count = elements.min(ELEMENTS);
    let mut bytes = vec![0; (count * width) as usize];
    source.checkpoint.read_at(place, (elements - count) / 2 * width, &mut bytes).ok()?;
    Some(bytes)
}

fn values((dtype, bytes): &(Dtype, Vec<u8>)) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() * 8 / dtype.bitsize()];
    convert::to_f32(*dtype, bytes, &mut values);
    values
}
