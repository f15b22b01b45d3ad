"""Drop-in for the Helios pipelines of diffusers 0.42: change the import line and nothing else.

    from heliograph.diffusers import HeliosPyramidPipeline

Components, keywords, defaults, frame counts and the order of random numbers are those of diffusers; the denoising is
that of this package. What is broken there works here or raises an error that says what to do.
"""

from diffusers.pipelines.helios.pipeline_output import HeliosPipelineOutput

from heliograph.diffusers.pipeline import HeliosPipeline, HeliosPyramidPipeline

__all__ = ["HeliosPipeline", "HeliosPipelineOutput", "HeliosPyramidPipeline"]
