"""The list of :mod:`tests.test_private_api`: a file of ours needs a part of another package to do something.

A part stands as `module:Class.name(parameters)`, with those of its parameters that we rely on.
"""

from __future__ import annotations

__all__ = ["REACHES"]

REACHES: dict[str, dict[str, str]] = {
    "callbacks/dashboard.py": {
        "tensorboard.plugins.custom_scalar:layout_pb2": "lay out a margin chart that has two lines",
    },
    "callbacks/last_checkpoints.py": {
        "lightning.pytorch.callbacks:ModelCheckpoint._last_global_step_saved": "save only once a step was taken",
        "lightning.pytorch.callbacks:ModelCheckpoint._monitor_candidates(trainer)": "save on an exception as always",
        "lightning.pytorch.callbacks:ModelCheckpoint._save_last_checkpoint": "save on an exception as always",
        "lightning.pytorch.callbacks:ModelCheckpoint._save_topk_checkpoint": "save on an exception as always",
        "lightning.pytorch.callbacks:ModelCheckpoint._should_remove_checkpoint(trainer, previous, current)": (
            "remove checkpoints of the runs before this one too"
        ),
        "lightning.pytorch.callbacks:ModelCheckpoint._should_save_on_exception(trainer)": "save on an exception",
    },
    "callbacks/progress_bar.py": {
        "lightning.pytorch.callbacks:RichProgressBar._get_train_description(current_epoch)": (
            "name the epoch of a run whose epochs are not limited"
        ),
        "rich.progress:ProgressColumn._renderable_cache": "forget bars that were removed, or memory grows",
    },
    "checkpoint/builders.py": {
        "lightning.fabric.utilities.cloud_io:_load(path_or_url, map_location, weights_only)": (
            "read a checkpoint from wherever Lightning reads it"
        ),
    },
    "checkpoint/exact_resume.py": {
        "lightning.pytorch:Trainer._logger_connector": "log again what the interrupted run may not have logged",
        "lightning.pytorch.loops.evaluation_loop:_EvaluationLoop.batch_progress": "begin a validation anew",
        "lightning.pytorch.loops.fit_loop:_FitLoop._data_fetcher": "ask whether a validation is due",
        "lightning.pytorch.loops.fit_loop:_FitLoop.epoch_progress": "know that a run goes on behind an epoch's end",
        "lightning.pytorch.loops.fit_loop:_FitLoop.reset_restart_stage": "count the epoch behind an epoch's end",
        "lightning.pytorch.loops.fit_loop:_FitLoop.state_dict": "save the counters of the end of a step",
        "lightning.pytorch.loops.progress:_ProcessedTracker.reset_on_restart": "begin a validation anew",
        "lightning.pytorch.loops.training_epoch_loop:_TrainingEpochLoop._should_check_val_fx(data_fetcher)": (
            "know whether a validation is due"
        ),
        "lightning.pytorch.loops.training_epoch_loop:_TrainingEpochLoop.val_loop": (
            "reach the validation within training, here and in distributed/strategy.py"
        ),
        "lightning.pytorch.trainer.connectors.logger_connector.logger_connector:_LoggerConnector.log_metrics": (
            "log again what the interrupted run may not have logged"
        ),
        "lightning.pytorch.trainer.connectors.logger_connector.logger_connector:_LoggerConnector.metrics": (
            "keep what is about to be logged"
        ),
        "lightning.pytorch.trainer.connectors.logger_connector.logger_connector:_LoggerConnector.should_update_logs": (
            "know whether this step is logged"
        ),
        "tensorboard.compat.proto.event_pb2:Event": "have TensorBoard forget what was logged behind the checkpoint",
        "tensorboard.compat.proto.event_pb2:SessionLog": "have TensorBoard forget what was logged behind it",
        "torch.utils.tensorboard:SummaryWriter._get_file_writer": "write that event into the open file",
    },
    "checkpoint/preemption.py": {
        "lightning.pytorch:Trainer._signal_connector": "take the place of Lightning's handlers of signals",
        "lightning.pytorch.trainer.connectors.signal_connector:_SignalConnector._sigterm_notifier_fn(signum)": (
            "note SIGTERM, and end between two steps"
        ),
        "lightning.pytorch.trainer.connectors.signal_connector:_SignalConnector._slurm_sigusr_handler_fn(signum)": (
            "note SLURM's signal, and requeue between two steps"
        ),
    },
    "checkpoint/resume.py": {
        "lightning.pytorch.loggers:TensorBoardLogger._version": "let a logger go on in its version",
    },
    "commands/fit.py": {
        "lightning.pytorch.cli:LightningCLI._parse_ckpt_path": "keep a checkpoint from overriding what the user typed",
        "lightning.pytorch.cli:LightningCLI._prepare_subcommand_kwargs(subcommand)": "say what ckpt_path=last is",
        "lightning.pytorch.cli:LightningCLI._prepare_subcommand_parser(klass, subcommand)": (
            "build the parser of one subcommand only"
        ),
    },
    "data/base.py": {
        "lightning.pytorch.overrides.distributed:UnrepeatedDistributedSampler": "evaluate each example once",
    },
    "commands/parser.py": {
        "jsonargparse:ArgumentParser._add_signature_parameter(container, nested_key, param)": "show ranges in --help",
    },
    "distributed/checkpoint_index.py": {
        "torch.distributed.checkpoint.filesystem:FileSystemReader.read_metadata": "read the index as data",
        "torch.distributed.checkpoint.filesystem:_StorageInfo": "let an index name it",
        "torch.distributed.checkpoint.metadata:_MEM_FORMAT_ENCODING": "let an index name it",
        "torch.serialization:_get_layout": "let an index name it",
    },
    "distributed/strategy.py": {
        "lightning.pytorch.loops.evaluation_loop:_EvaluationLoop.inference_mode": "evaluate with sharded weights",
        "lightning.pytorch.strategies:ModelParallelStrategy._data_parallel_size": "shard over all processes",
        "lightning.pytorch.strategies:ModelParallelStrategy._save_distributed_checkpoint": "write a folder, or a file",
        "lightning.pytorch.strategies:ModelParallelStrategy._tensor_parallel_size": "shard over all processes",
    },
    "evaluation/harness.py": {
        "lm_eval.api.model:TemplateLM._loglikelihood_tokens(requests)": "score continuations in our own batches",
        "lm_eval.models.utils:DEFAULT_MAX_LENGTH": "read as much as the harness's own backend does",
        "lm_eval.models.utils:handle_stop_sequences(until, eos)": "stop where the harness's own backend stops",
        "lm_eval.models.utils:has_bos_prefix": "make tokens as the harness's own backend does",
        "lm_eval.models.utils:normalize_gen_kwargs": "sample as the harness's own backend does",
        "lm_eval.models.utils:postprocess_generated_text": "cut answers as the harness's own backend does",
        "lm_eval.utils:get_rolling_token_windows": "cut long texts as the harness's own backend does",
        "lm_eval.utils:make_disjoint_window": "cut long texts as the harness's own backend does",
    },
    "experiments/pruning.py": {
        "optuna.trial:Trial._trial_id": "let the process of a run report to its trial",
    },
    "experiments/runs/run.py": {
        "tensorboard.backend.event_processing.event_file_loader:EventFileLoader": "read the curves of a run",
    },
    "memory/hollow.py": {
        "torch.utils._python_dispatch:TorchDispatchMode": "run operations without their numbers",
        "torch:_ops.OpOverload._schema": "tell operations that write or view from those that compute",
        "torch:ops.aten._local_scalar_dense": "answer 1 to code that asks for a number",
        "torch:ops.aten._unsafe_view": "take it for the view that it is",
    },
    "memory/ledger.py": {
        "torch:Tensor.untyped_storage": "count each storage once, by its Python object, until it goes",
    },
    "modules/causal_lm.py modules/checkpointed.py": {
        "lightning.pytorch:LightningModule._trainer": "know whether there is a trainer",
    },
    "modules/checkpointed.py": {
        "torch.nn.modules.module:_IncompatibleKeys._replace": "load an adapter without the model under it",
    },
    "policy/adapter_export.py": {
        "peft.tuners.lora:Linear.get_delta_weight(adapter)": "merge the adapter, and send vLLM weights that have it",
        "peft.tuners.tuners_utils:BaseTuner.peft_config": "write the config of the adapter, or forget it",
    },
    "policy/decoding.py policy/fixed_decoding.py": {
        "transformers.cache_utils:DynamicCache": "give the model keys and values in buffers of our own",
    },
    "policy/decoding.py policy/fixed_decoding.py policy/prefix.py": {
        "transformers.cache_utils:DynamicLayer": "give the model keys and values that we keep",
    },
    "policy/layout.py": {
        "transformers:PreTrainedConfig._attn_implementation": "give FlexAttention the mask that it takes",
    },
    "policy/decoding.py": {
        "transformers.cache_utils:DynamicSlidingWindowLayer": "tell layers of attention from those with a state",
    },
    "policy/fixed_decoding.py": {
        "transformers.cache_utils:CacheLayerMixin.is_compileable": "make the model compute its mask on the device",
    },
    "policy/lora.py": {
        "bitsandbytes.backends.cpu.ops": "silence its logger, which advises to install what is not used",
        "peft.tuners.lora:LoraLayer.lora_A": "read the adapter of the head",
        "peft.tuners.lora:LoraLayer.lora_B": "read the adapter of the head",
        "peft.tuners.lora:LoraLayer.scaling": "read the adapter of the head",
        "peft.tuners.tuners_utils:BaseTunerLayer._active_adapter": "switch between student and teacher",
        "peft.tuners.tuners_utils:BaseTunerLayer._disable_adapters": "compute what the model did before",
        "peft.tuners.tuners_utils:BaseTunerLayer.adapter_layer_names": "find the layers that hold adapters",
        "peft.utils.other:ModulesToSaveWrapper.modules_to_save": "find the copies that are trained whole",
        "peft.utils.other:ModulesToSaveWrapper.original_module": "find the modules that are trained whole",
    },
    "policy/loading.py": {
        "transformers:PreTrainedModel.hf_quantizer": "make a model that was read from GGUF a plain one",
        "transformers:PreTrainedModel.all_tied_weights_keys": "know which weights the config ties",
        "transformers.utils.peft_utils:find_adapter_config_file": "refuse a folder that holds an adapter",
    },
    "policy/policy.py": {
        "transformers:PreTrainedModel._no_split_modules": "know the model's blocks (Policy.blocks)",
        "transformers.core_model_loading:revert_weight_conversion(model, state_dict)": "name weights as files do",
    },
    "policy/policy.py teacher/full.py teacher/offloaded.py": {
        "torch.nn:Module._apply(fn, recurse)": "keep some tensors in their precision or place when a module moves",
    },
    "policy/quantized.py": {
        "bitsandbytes.functional:QuantState(absmax, shape, code, blocksize, quant_type, dtype, offset, state2)": (
            "keep bits and scales in tensors that move with the model"
        ),
        "bitsandbytes.functional:create_dynamic_map": "have a table of scales of our own",
        "bitsandbytes.functional:quantize_blockwise(A, code, blocksize)": "store scales in 8 bits",
        "bitsandbytes:matmul_4bit(A, B, quant_state)": "multiply by weights of 4 bits",
    },
    "rollout/vllm/engine.py": {
        "vllm.distributed:cleanup_dist_env_and_memory": "end the group of processes that vLLM has begun",
        "vllm.model_executor.model_loader.reload.layerwise": "silence its logger, whose warnings are of no use here",
        "vllm.platforms:current_platform": "know whether vLLM can sleep",
        "vllm.v1.engine.core_client:EngineCoreClient.shutdown": "let go of vLLM",
        "vllm.v1.engine.llm_engine:LLMEngine.engine_core": "let go of vLLM",
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner.reload_weights(weights_iterator, weights_path)": (
            "give vLLM the weights of the policy, here and in rollout/vllm/server.py"
        ),
    },
    "rollout/vllm/fingerprint.py": {
        "vllm.model_executor.models.llama:LlamaForCausalLM.packed_modules_mapping": "know which projections are fused",
    },
    "rollout/vllm/worker.py": {
        "vllm.config:ModelConfig.hf_text_config": "compare the served model with the policy",
        "vllm.config:ModelConfig.logprobs_mode": "know of which distribution log-probabilities are",
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner.get_model": "compare the weights with the policy's",
    },
    "teacher/offloaded.py": {
        "torch.nn.parallel:DistributedDataParallel._set_params_and_buffers_to_ignore_for_model"
        "(module, params_and_buffers_to_ignore)": "keep DDP from an offloaded teacher",
    },
    "trust.py": {
        "jsonargparse._common:parsing_settings": "take back what configs may import, which has no public way",
    },
}
