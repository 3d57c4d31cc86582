//! Inputs to begin with: small sound images of every kind, in the form that each target takes.

use arbitrary::Unstructured;

use crate::generate;
use crate::random::Random;

/// Inputs for a target, always the same ones.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    (0..48).map(|number| seed(target, &mut Random::new(number))).collect()
}

fn seed(target: &str, random: &mut Random) -> Vec<u8> {
    match target {
        "entries" => {
            let mut bytes = vec![random.bytes(1)[0]];
            for _ in 0..4 {
                let flags = random.number() & (3 << 62 | 1);
                bytes.extend((flags | (random.number() & 0xff_fe00)).to_be_bytes());
                bytes.extend((random.number() & 0xffff_0000_ffff).to_be_bytes());
            }
            bytes
        }
        "generated" | "files" => {
            let count = 200 + random.below(1800);
            random.bytes(count)
        }
        "snapshots" => snapshot_table(random),
        "content" => [random.bytes(8), image(random)].concat(),
        "operations" => {
            let script = random.bytes(crate::SCRIPT_BYTES);
            [script, image(random)].concat()
        }
        _ => image(random),
    }
}

fn image(random: &mut Random) -> Vec<u8> {
    let choices = random.bytes(2000);
    let generated = generate::build(&mut Unstructured::new(&choices));
    generated.expect("choices without end").bytes
}

/// The table of an image that has one.
fn snapshot_table(random: &mut Random) -> Vec<u8> {
    loop {
        let image = image(random);
        let at = usize::try_from(u64::from_be_bytes(*image[64..].first_chunk().expect("a header")))
            .expect("small");
        if at > 0 {
            let end = image.len().min(at + 400);
            return [&image[62..64], &image[at..end]].concat();
        }
    }
}
