//! The loader: the same bits for any number of workers, in order, resumable, and never stuck.

use image::{Rgb, RgbImage};
use rand::RngCore;
use selfsup_data::{
    Batch, BatchLoader, DecodeError, Error, LoaderConfig, OpenOptions, Order, Prepare, Result, Sample,
    SampleKey, Source, open, shuffled,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Images that carry their own number; some cannot be read.
struct Numbers {
    samples: Vec<Sample>,
    broken: Vec<usize>,
    reads: AtomicUsize,
}

impl Numbers {
    fn new(len: usize, broken: &[usize]) -> Arc<Self> {
        let samples =
            (0..len).map(|i| Sample { id: format!("{i:04}"), label: None, caption: None }).collect();
        Arc::new(Self { samples, broken: broken.to_vec(), reads: AtomicUsize::new(0) })
    }
}

impl Source for Numbers {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn sample(&self, index: usize) -> &Sample {
        &self.samples[index]
    }

    fn image(&self, index: usize) -> Result<RgbImage> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if self.broken.contains(&index) {
            let source = DecodeError::Read("gone".into());
            return Err(Error::Decode { id: self.samples[index].id.clone(), source });
        }
        Ok(RgbImage::from_pixel(1, 1, Rgb([index as u8, (index >> 8) as u8, 0])))
    }
}

/// Pixels and random bits: everything that a method's example could depend on.
type Example = (usize, u64, u64);

fn example() -> Prepare<Example> {
    Arc::new(|image, key| {
        let p = image.get_pixel(0, 0).0;
        // Work of uneven length, so that workers overtake each other.
        std::thread::sleep(Duration::from_micros(key.rng(9).next_u64() % 60));
        Ok((usize::from(p[0]) + 256 * usize::from(p[1]), key.rng(0).next_u64(), key.rng(1).next_u64()))
    })
}

fn config(batch_size: usize, workers: usize) -> LoaderConfig {
    LoaderConfig { batch_size, workers, prefetch_batches: 2, seed: 7, strict: false }
}

fn from(first_epoch: u64, first_batch: u64) -> Order {
    Order::Shuffled { first_epoch, first_batch }
}

fn batches(data: Arc<Numbers>, config: LoaderConfig, order: Order, count: usize) -> Vec<Batch<Example>> {
    BatchLoader::new(data, config, order, example()).take(count).map(|b| b.unwrap()).collect()
}

#[test]
fn any_number_of_workers_gives_the_same_batches() {
    for batch_size in [1, 7, 50, 103] {
        let data = Numbers::new(103, &[5, 60, 61]);
        let expected = batches(data.clone(), config(batch_size, 0), from(0, 0), 20);
        for workers in [1, 3, 8] {
            assert_eq!(
                batches(data.clone(), config(batch_size, workers), from(0, 0), 20),
                expected,
                "{workers}"
            );
        }
        for prefetch_batches in [0, 1, 30] {
            let config = LoaderConfig { prefetch_batches, ..config(batch_size, 3) };
            assert_eq!(
                batches(data.clone(), config, from(0, 0), 20),
                expected,
                "prefetch {prefetch_batches}"
            );
        }
    }
}

/// Against the definition: the epoch's permutation cut into whole batches, each sample with its own
/// generators.
#[test]
fn batches_are_the_epochs_permutation() {
    let data = Numbers::new(25, &[]);
    let got = batches(data, config(10, 2), from(0, 0), 6);
    for (i, batch) in got.iter().enumerate() {
        let (epoch, at) = (i as u64 / 2, i % 2);
        let indices = &shuffled(7, epoch, 25)[10 * at..10 * at + 10];
        assert_eq!((batch.epoch, &batch.indices[..]), (epoch, indices));
        for (&index, example) in indices.iter().zip(&batch.examples) {
            let key = SampleKey { seed: 7, epoch, index };
            assert_eq!(*example, (index, key.rng(0).next_u64(), key.rng(1).next_u64()));
        }
    }
}

#[test]
fn a_start_in_mid_epoch_is_the_tail_of_the_whole() {
    let data = Numbers::new(64, &[3]);
    let whole = batches(data.clone(), config(10, 2), from(0, 0), 24);
    for (epoch, batch) in [(0, 0), (0, 4), (1, 0), (2, 3), (3, 5), (0, 6), (1, 11)] {
        let start = (6 * epoch + batch) as usize;
        let tail = batches(data.clone(), config(10, 3), from(epoch, batch), 24 - start);
        assert_eq!(tail, whole[start..], "epoch {epoch} batch {batch}");
    }
}

#[test]
fn sequential_visits_each_sample_once() {
    for workers in [0, 1, 3] {
        let loader =
            BatchLoader::new(Numbers::new(23, &[22]), config(5, workers), Order::Sequential, example());
        assert_eq!(loader.batches_per_epoch(), 5);
        let got: Vec<_> = loader.map(|b| b.unwrap()).collect();
        let visited: Vec<usize> = got.iter().flat_map(|b| b.indices.clone()).collect();
        assert_eq!(visited, (0..22).collect::<Vec<_>>());
        assert_eq!(got.iter().map(|b| b.examples.len()).collect::<Vec<_>>(), [5, 5, 5, 5, 2]);
        let skipped = &got[4].skipped[0];
        assert_eq!((skipped.index, &skipped.id[..]), (22, "0022"));
        assert!(skipped.reason.contains("gone"));
    }
    let empty = BatchLoader::new(Numbers::new(0, &[]), config(5, 2), Order::Sequential, example());
    assert_eq!(empty.count(), 0);
}

#[test]
fn no_more_is_made_than_may_wait() {
    let data = Numbers::new(1000, &[]);
    let config = LoaderConfig { prefetch_batches: 3, ..config(10, 4) };
    let mut loader = BatchLoader::new(data.clone(), config, from(0, 0), example());
    loader.next().unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let reads = data.reads.load(Ordering::SeqCst);
    assert!((11..=50).contains(&reads), "{reads} images read for one batch taken and four that may be open");
}

/// The error of the earliest sample, with any number of workers; then the end.
#[test]
fn errors_are_the_same_and_final() {
    for workers in [0, 1, 4] {
        let strict = LoaderConfig { strict: true, ..config(10, workers) };
        let mut loader = BatchLoader::new(Numbers::new(40, &[31, 35]), strict, Order::Sequential, example());
        for _ in 0..3 {
            assert!(loader.next().unwrap().is_ok());
        }
        let error = loader.next().unwrap().unwrap_err();
        assert!(matches!(&error, Error::Decode { id, .. } if id == "0031"), "{error}");
        assert!(loader.next().is_none() && loader.next().is_none());

        let refuse: Prepare<()> =
            Arc::new(|_, key| if key.index >= 12 { Err("too odd".into()) } else { Ok(()) });
        let mut loader =
            BatchLoader::new(Numbers::new(40, &[]), config(10, workers), Order::Sequential, refuse);
        assert!(loader.next().unwrap().is_ok());
        assert_eq!(
            loader.next().unwrap().unwrap_err().to_string(),
            "0012: cannot prepare the example: too odd"
        );
        assert!(loader.next().is_none());
    }
}

#[test]
fn a_panic_is_an_error() {
    for workers in [0, 1, 3] {
        let panicking: Prepare<()> =
            Arc::new(|_, key| if key.index == 4 { panic!("number {}", key.index) } else { Ok(()) });
        let mut loader =
            BatchLoader::new(Numbers::new(8, &[]), config(8, workers), Order::Sequential, panicking);
        match loader.next().unwrap() {
            Err(Error::Panicked { id, message }) => assert_eq!((&id[..], &message[..]), ("0004", "number 4")),
            other => panic!("{other:?}"),
        }
        assert!(loader.next().is_none());
    }
}

/// The workers hold the source and `prepare`: when only ours are left, they have ended.
#[test]
fn no_worker_outlives_its_loader() {
    let prepare = example();
    for (batches, broken) in [(0, vec![]), (3, vec![]), (100, vec![]), (100, vec![17])] {
        let strict = LoaderConfig { strict: true, ..config(4, 4) };
        let data = Numbers::new(100, &broken);
        let mut loader = BatchLoader::new(data.clone(), strict, Order::Sequential, prepare.clone());
        assert!(Arc::strong_count(&data) > 1);
        let last = loader.by_ref().take(batches).last();
        if batches == 100 {
            assert_eq!(last.unwrap().is_err(), !broken.is_empty());
        }
        drop(loader);
        assert_eq!((Arc::strong_count(&prepare), Arc::strong_count(&data)), (1, 1));
    }
    // A worker in the middle of a sample is waited for.
    let (inside, left) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (i, l) = (inside.clone(), left.clone());
    let slow: Prepare<()> = Arc::new(move |_, _| {
        i.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(30));
        l.store(true, Ordering::SeqCst);
        Ok(())
    });
    let loader = BatchLoader::new(Numbers::new(9, &[]), config(1, 2), Order::Sequential, slow);
    while !inside.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    drop(loader);
    assert!(left.load(Ordering::SeqCst));
}

#[test]
fn settings_that_do_not_fit_are_errors() {
    for (len, batch_size, order) in
        [(10, 11, from(0, 0)), (10, 0, from(0, 0)), (0, 1, from(0, 0)), (10, 0, Order::Sequential)]
    {
        let mut loader = BatchLoader::new(Numbers::new(len, &[]), config(batch_size, 2), order, example());
        let error = loader.next().unwrap().unwrap_err();
        assert!(matches!(error, Error::BatchSize { .. }), "{error}");
        assert!(loader.next().is_none());
    }
}

#[test]
fn an_epoch_without_a_readable_image_is_an_error() {
    for workers in [0, 2] {
        let all: Vec<usize> = (0..10).collect();
        let mut loader = BatchLoader::new(Numbers::new(10, &all), config(4, workers), from(0, 1), example());
        match loader.find_map(|b| b.err()) {
            Some(Error::NothingReadable { samples: 4, reason, .. }) => assert!(reason.contains("gone")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn statistics_add_up() {
    let slow: Prepare<()> = Arc::new(|_, _| {
        std::thread::sleep(Duration::from_millis(2));
        Ok(())
    });
    // The consumer waits for every sample …
    let mut loader = BatchLoader::new(Numbers::new(40, &[3]), config(10, 0), Order::Sequential, slow.clone());
    assert_eq!(loader.stats().samples_per_s(), 0.0);
    assert_eq!(loader.by_ref().count(), 4);
    let stats = loader.stats();
    assert_eq!((stats.batches, stats.samples, stats.skipped), (4, 39, 1));
    assert!(stats.wait_fraction() > 0.9, "{stats:?}");
    assert!(
        stats.prepare_seconds >= 39.0 * 0.002 && stats.prepare_seconds <= stats.elapsed_seconds,
        "{stats:?}"
    );
    assert!(stats.samples_per_s() <= 500.0, "{stats:?}");
    // … or the workers wait for the consumer.
    let mut loader = BatchLoader::new(Numbers::new(40, &[]), config(4, 4), Order::Sequential, slow);
    for batch in loader.by_ref() {
        batch.unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(loader.stats().wait_fraction() < 0.4, "{:?}", loader.stats());
}

/// A file that changes or vanishes while a run goes on is skipped and named.
#[test]
fn a_file_that_vanishes_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..6 {
        RgbImage::from_pixel(2, 2, Rgb([i; 3])).save(dir.path().join(format!("{i}.png"))).unwrap();
    }
    let data = open(dir.path().to_str().unwrap(), &OpenOptions::default()).unwrap();
    let prepare: Prepare<u8> = Arc::new(|image, _| Ok(image.get_pixel(0, 0).0[0]));
    let mut loader = BatchLoader::new(Arc::new(data), config(6, 0), from(0, 0), prepare);
    assert_eq!(loader.next().unwrap().unwrap().examples.len(), 6);
    std::fs::remove_file(dir.path().join("2.png")).unwrap();
    std::fs::write(dir.path().join("4.png"), b"\x89PNG\r\n\x1a\n and no more").unwrap();
    let batch = loader.next().unwrap().unwrap();
    let mut skipped: Vec<_> = batch.skipped.iter().map(|s| s.id.as_str()).collect();
    skipped.sort_unstable();
    assert_eq!((batch.examples.len(), skipped), (4, vec!["2.png", "4.png"]));
}
