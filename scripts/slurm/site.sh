# shellcheck shell=bash disable=SC2034
# What differs from cluster to cluster. Copy, edit, and name the copy: moekv sweep ... --submit --site my_site.sh
# Every line may be left as it is; what is empty or left out has the value that stands here (but an empty launch).

sbatch_options=()          # for every job: (--partition=gpu --account=abc123 --qos=normal)
merge_options=()           # for the job that merges, which needs no GPU and one task: (--partition=cpu --mem=8G)
modules=()                 # loaded in every job: (gcc openmpi hdf5)
gpus_per_node=0            # > 0 asks for --gres=gpu:N and starts N tasks on a node; each takes the GPU of its local rank
nodes=1                    # of one job of the sweep
tasks_per_node=1           # without GPUs; ranks of the configuration are spread over all tasks
cpus_per_task=1
memory_per_node=           # 64G: asked for with --mem; no sweep is submitted whose points need more. Empty: what the cluster gives
gpu_memory=                # 80G: of one GPU; likewise for backend cuda
time_limit=01:00:00        # of one job; a job that reaches it is requeued and goes on
grace_seconds=120          # how long before the limit a job is told to end
most_restarts=20           # of one job
launch=(srun --mpi=pmix)   # (mpirun) where Slurm has no PMIx; (): the program alone, one process
launch_environment=()      # (OMPI_MCA_btl=self,tcp OMPI_MCA_pml=ob1)
