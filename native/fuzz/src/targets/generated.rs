//! The structure-aware target: a sound image that no program made, damaged in some fields; then all
//! that the others do.

use arbitrary::{Result, Unstructured};

use super::check::{is_clean, verdict};
use super::{content, header, operations, within_memory};
use crate::generate::{self, Condition};

/// `bytes` are choices.
pub fn generated(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    // An input that is used up makes the smallest choice, so that there are no errors.
    let _ = all(&mut input);
}

/// What is done to an image, and the image.
struct Choice {
    places: [u8; 8],
    script: [u8; operations::SCRIPT_BYTES],
    file: Vec<u8>,
    condition: Condition,
}

impl Choice {
    /// What is done comes first: an image takes as many choices as there are.
    fn draw(input: &mut Unstructured<'_>) -> Result<Self> {
        let (places, script) = (input.arbitrary()?, input.arbitrary()?);
        let (file, condition) = generate::image(input)?;
        Ok(Self { places, script, file, condition })
    }
}

/// The image that these choices make.
pub fn image(bytes: &[u8]) -> Option<Vec<u8>> {
    Choice::draw(&mut Unstructured::new(bytes)).ok().map(|choice| choice.file)
}

fn all(input: &mut Unstructured<'_>) -> Result<()> {
    let Choice { places, script, file, condition } = Choice::draw(input)?;
    header::header(&file);
    within_memory(file.len(), || {
        let report = verdict(&file);
        if condition == Condition::Sound {
            assert!(report.is_some_and(|report| is_clean(&report)), "not sound: {report:?}");
        }
    });
    within_memory(file.len(), || content::read(&file, places));
    operations::work(&file, script);
    Ok(())
}
