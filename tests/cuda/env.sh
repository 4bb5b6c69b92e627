# For the machine with the GPU, `source tests/cuda/env.sh`: LD_LIBRARY_PATH gets the folders of CUDA's libraries, first
# those of the Python here (PyTorch brings them), then those of CUDA itself, then the driver's in containers and WSL.
_cuda_path=
while read -r _cuda_folder; do
    [ ! -d "$_cuda_folder" ] || _cuda_path=$_cuda_path$_cuda_folder:
done <<FOLDERS
$(python3 -c 'import glob, sys; print(*(lib for path in sys.path for lib in glob.glob(f"{path}/nvidia/*/lib")), sep="\n")')
/usr/local/cuda/lib64
/usr/local/nvidia/lib64
/usr/lib/wsl/lib
FOLDERS
LD_LIBRARY_PATH=$_cuda_path${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH%:}
# The driver compiles each of candle's modules once and keeps the result, if this is large enough.
export CUDA_CACHE_MAXSIZE=4294967296
unset _cuda_path _cuda_folder
