"""The flow of 2.0: its fields, and the settings of commands that give them."""

FLOW_SETTINGS = {
    "num_steps": "sampling_steps",
    "guidance": "guidance_scale",
    "guidance_img": "guidance_img",
    "shift": "use_timestep_transform",
    "flow_shift": "flow_shift",
    "text_osci": "text_osci",
    "image_osci": "image_osci",
    "scale_temporal_osci": "scale_temporal_osci",
}
"""The settings of the flow by their published names, those of `ShiftedFlowConfig`, and what all versions call them."""
