"""Conda packages whose Python distributions have other names: the package, then the normalized names."""

from __future__ import annotations

from collections.abc import Mapping

_TABLE = """
airflow apache-airflow; antlr-python-runtime antlr4-python3-runtime; aesara-base aesara;
apache-beam-with-gcp apache-beam; black-jupyter black; brotli-python brotli; cupy-core cupy; cvxpy-base cvxpy;
cython-blis blis; dask-core dask; docker-py docker; faiss faiss faiss-cpu; faiss-cpu faiss faiss-cpu;
faiss-gpu faiss faiss-gpu; geopandas-base geopandas; gurobi gurobipy; h2o-py h2o; ibis-framework-core ibis-framework;
ignite pytorch-ignite; kedro-with-telemetry kedro; matplotlib-base matplotlib; msgpack-python msgpack;
nbconvert-core nbconvert; numpy-base numpy; opencv opencv-python opencv-python-headless; ortools-python ortools;
py-lief lief; py-mxnet mxnet; py-opencv opencv-python opencv-python-headless; py-xgboost xgboost;
py-xgboost-cpu xgboost; py-xgboost-gpu xgboost; pyarrow-core pyarrow; pyg torch-geometric; pymc-base pymc;
pymol-open-source pymol; pyqt pyqt5; pysoundfile soundfile; pytables tables; pytensor-base pytensor;
python-blosc blosc; python-build build; python-chess chess; python-clang clang;
python-confluent-kafka confluent-kafka; python-duckdb duckdb; python-eccodes eccodes;
python-fastjsonschema fastjsonschema; python-flatbuffers flatbuffers; python-graphviz graphviz; python-hdfs hdfs;
python-igraph igraph python-igraph; python-installer installer; python-isal isal; python-kaleido kaleido;
python-leveldb leveldb; python-libarchive-c libarchive-c; python-lmdb lmdb; python-lz4 lz4; python-neo neo;
python-sounddevice sounddevice; python-symengine symengine; python-tblib tblib; python-tzdata tzdata;
python-wget wget; python-xxhash xxhash; python-zstd zstd; pytorch torch; pytorch-cluster torch-cluster;
pytorch-cpu torch; pytorch-geometric torch-geometric; pytorch-gpu torch; pytorch-scatter torch-scatter;
pytorch-sparse torch-sparse; pytorch-spline-conv torch-spline-conv; qtconsole-base qtconsole; ray-core ray;
ray-default ray; redis-py redis; seaborn-base seaborn; sentencepiece-python sentencepiece;
snakemake-minimal snakemake; spacy-model-en-core-web-lg en-core-web-lg; spacy-model-en-core-web-md en-core-web-md;
spacy-model-en-core-web-sm en-core-web-sm; spacy-model-en-core-web-trf en-core-web-trf; spyder-base spyder;
tensorflow-base tensorflow; tensorflow-cpu tensorflow; tensorflow-gpu tensorflow; torchtriton triton;
torchvision-cpu torchvision; torchvision-gpu torchvision; vtk-base vtk; xgboost-cpu xgboost; xgboost-gpu xgboost
"""
DISTRIBUTION_NAMES: Mapping[str, tuple[str, ...]] = {
    name: tuple(distributions) for name, *distributions in map(str.split, _TABLE.split(";"))
}
