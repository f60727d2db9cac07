"""hbmesh under inference engines.

:mod:`hbmesh.integrations.vllm` is a KV connector for vLLM, :mod:`hbmesh.integrations.lmcache` a remote storage plugin
for LMCache. Neither engine is needed to import this package; docs/INTEGRATIONS.md says how to use them.
"""
