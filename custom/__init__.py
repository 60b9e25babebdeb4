"""Deep FiLM: text-guided segmentation of organs and tumours in 3D CT.

The packages, named as MONAI names its own, bottom up: each imports only those before it.

    utils       files written atomically, processes, memory, errors, masks, geometry, precision
    anatomy     class sets: names, synonyms, sides, codes, colours (JSON), and their reader
    imageio     volumes and masks on disk: NIfTI, NRRD, DICOM series, DICOM-SEG, RTSTRUCT
    text        sentences to vectors: frozen text encoders, the prompt bank
    networks    a file per network; blocks/ what they are built of
    losses      a file per loss
    prompts     words to classes, classes to sentences, the parsed prompt
    datasets    dataset.json, list files, catalogue, folds, sampling, the cache of prepared cases
    weights     safetensors with a header; public checkpoints; starting from pretrained weights
    transforms  MONAI transforms that MONAI lacks
    visualize   sections with outlines, the chart of a prompt's words
    bundle      where a bundle lies, which overrides it takes, what is refused before any work
    inferers    one image under prompts: windows encoded once, decoded per prompt, masks on the image's grid
    evaluation  counting, measuring, scoring, reports, pictures
    outputs     the result folder of an image
    handlers    Ignite handlers of training and validation
    engines     a run over many images: requests, resume, report
    cli         python -m custom
    tools       export, conversion, preparation, phantoms, benchmarks: in no exported bundle
"""

__version__ = "0.1.0"
